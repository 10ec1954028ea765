"""From native pixels to the network's input size: one function for training and prediction."""

from __future__ import annotations

import numpy as np
from PIL import Image

from medgraft.types import PixelArray, Preprocess

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def fit(pixels: PixelArray, preprocess: Preprocess) -> PixelArray:
    """Give an image the input size.

    Always resampled from the full-size pixels with a filter as wide as the reduction asks
    (antialiased): a JPEG decoded at reduced size would give other pixels than the same picture as PNG.

    Args:
        pixels: (H, W, 3) uint8.
        preprocess: ``size`` (h, w), ``resize`` and ``interpolation`` decide; ``squash`` scales both
            sides independently, ``pad`` keeps the aspect on black, ``crop`` keeps the aspect and cuts
            the centre.

    Returns:
        (h, w, 3) uint8, a fresh array.

    Example:
        >>> import numpy as np
        >>> from medgraft.types import Preprocess
        >>> rules = Preprocess((4, 6), "pad", "bilinear", (0.5,) * 3, (0.5,) * 3)
        >>> fit(np.full((10, 10, 3), 200, np.uint8), rules)[:, :, 0].tolist()
        [[0, 200, 200, 200, 200, 0], [0, 200, 200, 200, 200, 0], [0, 200, 200, 200, 200, 0], [0, 200, 200, 200, 200, 0]]
    """
    height, width = preprocess.size
    native_height, native_width = pixels.shape[:2]
    resample = _FILTERS[preprocess.interpolation]
    image = Image.fromarray(pixels)
    if preprocess.resize == "squash":
        return np.array(image.resize((width, height), resample))
    if preprocess.resize == "crop":
        scale = min(native_height / height, native_width / width)
        left, top = (native_width - width * scale) / 2, (native_height - height * scale) / 2
        box = (
            max(0.0, left),
            max(0.0, top),
            min(native_width, left + width * scale),
            min(native_height, top + height * scale),
        )
        return np.array(image.resize((width, height), resample, box=box))
    scale = min(height / native_height, width / native_width)
    inner_height = min(height, max(1, round(native_height * scale)))
    inner_width = min(width, max(1, round(native_width * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    padded[top : top + inner_height, left : left + inner_width] = np.asarray(
        image.resize((inner_width, inner_height), resample)
    )
    return padded
