"""`predict`: one result per image, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medgraft.data.sources import find_images
from medgraft.errors import DataError
from medgraft.inference.bundle import open_bundle
from medgraft.inference.output import check_output, write_predictions
from medgraft.inference.predictor import Predictor
from medgraft.types import Prediction
from medgraft.workflows.machine import choose_device
from medgraft.workflows.progress import Progress, Silent


def predict(
    bundle: str | Path,
    paths: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: Progress | None = None,
) -> list[Prediction]:
    """Predict images.

    Args:
        bundle: bundle folder, or a run folder that holds one.
        paths: image files, and folders that are walked in natural order.
        out: ``.csv`` or ``.json`` file to write as well.
        device: where the network runs.
        progress: receives what is going on; silent when not given.

    Returns:
        One prediction per image, in input order; an unreadable one carries its error.

    Raises:
        ModelError: a damaged bundle.
        DataError: NO_IMAGES.
        UsageError: an output ending that is not known, or a folder that is not there; before any work.
    """
    progress = progress or Silent()
    if out is not None:
        check_output(Path(out))
    images = find_images([Path(path) for path in paths])
    if not images:
        raise DataError(
            "NO_IMAGES",
            "no images there",
            where=", ".join(str(path) for path in paths),
            fix="name image files or folders of them",
        )
    predictor = Predictor(open_bundle(Path(bundle)), device=choose_device(device)[0])
    predictions = predictor.predict_paths(
        images, progress=lambda done, total: progress.advance("predicting", done, total)
    )
    if out is not None:
        write_predictions(Path(out), predictions, bundle_id=predictor.bundle.id)
    return predictions
