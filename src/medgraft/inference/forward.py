"""The one forward pass behind golden checks, predictions and explanations of random heads.

    pixels (n,h,w,3) uint8 → classifier → logits (n,C) float64, float32 arithmetic, finite or an error

A head with Monte-Carlo dropout stays random when it predicts. Its answer is the mean probability of
several draws with a fixed seed, the same draws for every image: so it is repeatable, and an image's
answer does not depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.errors import ModelError
from medgraft.models.classifier import Classifier
from medgraft.types import FloatArray, PixelArray

HEAD_SAMPLES = 32
_HEAD_SEED = 20160606


def device_of(classifier: Classifier) -> torch.device:
    """Device the parameters live on."""
    return next(classifier.parameters()).device


def to_tensor(pixels: PixelArray, device: torch.device) -> Tensor:
    """(n,h,w,3) uint8 array as a (n,3,h,w) uint8 tensor; read-only arrays are copied."""
    rows = np.ascontiguousarray(pixels)
    if not rows.flags.writeable:
        rows = rows.copy()
    return torch.from_numpy(rows).to(device).permute(0, 3, 1, 2)


@contextmanager
def float32_arithmetic(device: torch.device) -> Iterator[None]:
    """Full float32 in convolutions: TF32, the GPU's default, moves logits by about 1e-3."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def fixed_draws(device: torch.device) -> Iterator[None]:
    """Fixed random numbers inside, the caller's random state untouched outside."""
    # the generators themselves: torch.manual_seed would queue a call for every absent GPU, each time
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generator = torch.cuda.default_generators[index]
    else:
        generator = torch.mps._get_default_mps_generator() if device.type == "mps" else torch.default_generator
    before = generator.get_state()
    generator.manual_seed(_HEAD_SEED)
    try:
        yield
    finally:
        generator.set_state(before)


class FixedPart(nn.Module):
    """What of a classifier draws nothing: all of it, or everything before a random head.

    Args:
        classifier: in eval mode; shared, not copied.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, h, w) uint8, or float on the 0..255 scale, to logits (n, C) or, before a random head, maps."""
        maps = self.classifier.features(pixels)
        head = self.classifier.head
        if not head.stochastic:
            return self.classifier.classify(maps)
        pooled: Tensor = head.pool(maps) if head.pooled else maps
        return pooled


def forward_logits(classifier: Classifier, pixels: PixelArray, *, samples: int) -> FloatArray:
    """Logits of one batch.

    Args:
        classifier: in eval mode.
        pixels: (n, h, w, 3) uint8 of the network's size.
        samples: draws of a head with Monte-Carlo dropout; ignored by every other head.

    Returns:
        (n, C) float64. With several draws, the log of the mean probability.

    Raises:
        ModelError: ``NONFINITE_OUTPUT``.
    """
    device = device_of(classifier)
    with torch.inference_mode(), float32_arithmetic(device):
        given = FixedPart(classifier)(to_tensor(pixels, device))
        logits = mean_of_draws(classifier, given, samples=samples) if classifier.head.stochastic else given
        out: FloatArray = logits.cpu().numpy().astype(np.float64)
    return finite(out)


def mean_of_draws(classifier: Classifier, maps: Tensor, *, samples: int) -> Tensor:
    """Log of the mean probability over several draws of the head.

    Args:
        classifier: with a random head.
        maps: (n, C, h, w) backbone features, pooled (n, C, 1, 1) where the head begins so.
        samples: number of draws.

    Returns:
        (n, C) float32.

    Source: Gal and Ghahramani 2016, equation 6 (predictive mean).
    """
    device = maps.device
    rows = []
    for one in maps:
        # one head call per image, its draws as the batch: the same masks for every image
        with fixed_draws(device):
            draws = classifier.classify(one.expand(samples, -1, -1, -1))
        rows.append(torch.logsumexp(torch.log_softmax(draws, dim=1), dim=0) - math.log(samples))
    return torch.stack(rows)


def finite(logits: FloatArray) -> FloatArray:
    """The logits as they came, or an error: a number that is not one never leaves.

    Raises:
        ModelError: ``NONFINITE_OUTPUT``.
    """
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise ModelError(
            "NONFINITE_OUTPUT",
            f"the network gave NaN or infinity for {len(bad)} of {len(logits)} images",
            where=f"row {bad[0]} of the batch",
            fix="the weights are not usable as they are; train again or take another bundle",
        )
    return logits
