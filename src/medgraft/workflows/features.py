"""Features of a frozen backbone: what compared probes, suspected labels and the test for a shift read.

The cache is that of the probe of `train`, part by part, so each finds what the others have computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medgraft.config import AugmentConfig
from medgraft.data.pixels import Pixels
from medgraft.models.classifier import Classifier
from medgraft.models.cut import cut_at_boundary
from medgraft.models.engine import FrozenEngine, Precision
from medgraft.models.freeze import set_trainable
from medgraft.training.activations import ViewRequest, compute_activations, weights_digest

FeatureArray = npt.NDArray[np.float16]
_CLEAN = ViewRequest(AugmentConfig(preset="none"), (0,), 0)


@dataclass(frozen=True)
class FrozenBackbone:
    """A backbone that is frozen as a whole, ready to run.

    Attributes:
        engine: raw pixels to pooled features.
        identity: of the weights and of where the network is cut.
    """

    engine: FrozenEngine
    identity: str

    @classmethod
    def of(cls, classifier: Classifier, *, device: str, precision: Precision) -> FrozenBackbone:
        """The frozen side of a classifier of which the head alone would train."""
        set_trainable(classifier, "head", freeze_norm=True)
        classifier.to(device)
        cut = cut_at_boundary(classifier)
        assert cut.prefix is not None  # a backbone that is frozen as a whole is a prefix
        engine = FrozenEngine(cut.prefix, classifier.preprocess.size, device=device, precision=precision)
        return cls(engine, weights_digest(cut.prefix, classifier, cut.boundary))

    def features(
        self, pixels: Pixels, *, folder: Path, progress: Callable[[int, int], None] | None = None
    ) -> FeatureArray:
        """Pooled features (N, D) of clean images.

        Args:
            pixels: N images at the network's size.
            folder: cache folder of activations.
            progress: called with (done, total) where they have to be computed.
        """

        def tell(_: str, done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)

        found = compute_activations(
            self.engine, pixels, _CLEAN, folder=folder, identity=self.identity, progress=tell
        ).views[0]
        return found.reshape(len(pixels), -1)
