"""Where the network looked: Grad-CAM maps and their overlay on the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.errors import UsageError
from medgraft.inference.forward import HEAD_SAMPLES, device_of, drawn_logits, pooled, to_tensor
from medgraft.models.classifier import Classifier
from medgraft.types import IntArray, PixelArray

_BATCH = 16
# matplotlib's inferno at eleven steps: rises in lightness all along, so it reads the same with any
# color vision and in grey
_INFERNO = np.array(
    [
        (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
        (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
    ],
    dtype=np.float64,
)  # fmt: skip


def gradcam(
    classifier: Classifier, pixels: PixelArray, class_indices: Sequence[int] | IntArray
) -> npt.NDArray[np.float32]:
    """Share of each place in the score of one class, by Grad-CAM on the backbone's last maps.

    Only the head is differentiated, by the maps alone, so no parameter gets a gradient and frozen
    ones stay frozen.

    Args:
        classifier: in eval mode.
        pixels: (n, h, w, 3) uint8 of the network's size.
        class_indices: n class indices, one per image.

    Returns:
        (n, h, w) float32 in 0..1; each map's largest value is 1, or the map is all 0 when nothing
        speaks for the class.

    Raises:
        UsageError: ``CAM_CLASSES`` when the indices do not fit images and classes.

    Source: Selvaraju et al. 2017, equations 1 and 2. Deviation: with two classes the score is the
        margin over the other class, so that softmax and sigmoid outputs explain alike. Of a head with
        Monte-Carlo dropout, the score is the mean over draws.
    """
    indices = np.asarray(class_indices)
    n, n_classes = len(pixels), len(classifier.classes)
    fits = indices.shape == (n,) and (
        n == 0 or (indices.dtype.kind in "iu" and 0 <= indices.min() <= indices.max() < n_classes)
    )
    if not fits:
        raise UsageError(
            "CAM_CLASSES",
            f"Grad-CAM needs one class index in 0..{n_classes - 1} per image ({n} images), got {class_indices!r}",
        )
    out = np.zeros((n, *pixels.shape[1:3]), dtype=np.float32)
    for start in range(0, n, _BATCH):
        part = slice(start, start + _BATCH)
        out[part] = _cam_batch(classifier, pixels[part], indices[part].astype(np.int64))
    return out


def _cam_batch(classifier: Classifier, pixels: PixelArray, indices: IntArray) -> npt.NDArray[np.float32]:
    device = device_of(classifier)
    with torch.no_grad():
        maps = classifier.features(to_tensor(pixels, device))
    maps = maps.detach().requires_grad_(True)
    with torch.enable_grad():
        if classifier.head.stochastic:
            logits = drawn_logits(classifier, pooled(classifier, maps), samples=HEAD_SAMPLES).mean(dim=1)
        else:
            logits = classifier.classify(maps)
        scores = _class_scores(logits, torch.from_numpy(indices).to(device))
        (gradient,) = torch.autograd.grad(scores.sum(), maps)
    with torch.no_grad():
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        cam = F.relu((weights * maps).sum(dim=1, keepdim=True))
        cam = F.interpolate(cam, size=pixels.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
        top = cam.amax(dim=(1, 2), keepdim=True)
        cam = torch.where(top > 0, cam / top.clamp_min(1e-30), torch.zeros_like(cam))
    out: npt.NDArray[np.float32] = cam.clamp(0.0, 1.0).cpu().numpy()
    return out


def _class_scores(logits: Tensor, indices: Tensor) -> Tensor:
    scores = logits.gather(1, indices[:, None])[:, 0]
    if logits.shape[1] == 2:
        scores = scores - logits.gather(1, 1 - indices[:, None])[:, 0]
    return scores


def overlay(pixels: PixelArray, cam: npt.NDArray[np.float32]) -> PixelArray:
    """Heat over the image: dark where the map is 0, yellow-white where it is 1.

    Args:
        pixels: (h, w, 3) uint8.
        cam: (h, w) in 0..1.

    Returns:
        (h, w, 3) uint8. Where the map is 0 the image is unchanged.
    """
    if pixels.shape[:2] != cam.shape or pixels.shape[2:] != (3,):
        raise UsageError("CAM_SHAPE", f"image {pixels.shape} and map {cam.shape} do not belong together")
    heat = np.clip(cam.astype(np.float64), 0.0, 1.0)
    steps = np.linspace(0.0, 1.0, len(_INFERNO))
    color = np.stack([np.interp(heat, steps, _INFERNO[:, channel]) for channel in range(3)], axis=-1)
    alpha = 0.6 * np.sqrt(heat)[..., None]
    blended = (1.0 - alpha) * pixels + alpha * color
    return np.rint(blended).astype(np.uint8)
