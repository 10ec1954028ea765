"""`demo`: the main job on generated brain MRI phantoms, offline, in minutes."""

from __future__ import annotations

from pathlib import Path

from medgraft.data.phantom import write_phantoms
from medgraft.errors import UsageError
from medgraft.workflows.check import check
from medgraft.workflows.evaluate import evaluate
from medgraft.workflows.predict import predict
from medgraft.workflows.progress import Progress, Silent
from medgraft.workflows.train import TrainResult, train

TRAIN_SEED = 0
NEW_SEED = 1
NEW_PATIENTS = 12


def demo(out: str | Path = "demo", *, progress: Progress | None = None) -> TrainResult:
    """Generate phantoms, check them, train, evaluate on new patients and predict.

    Args:
        out: folder for everything; must not hold anything yet.
        progress: receives what is going on; silent when not given.

    Returns:
        The training run.
    """
    progress = progress or Silent()
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            "DEMO_FOLDER_IN_USE",
            "the folder holds files already",
            where=str(folder),
            fix="remove it or name another with --out",
        )
    progress.say("== phantoms ==")
    table = write_phantoms(folder / "phantoms", seed=TRAIN_SEED)
    new = write_phantoms(folder / "new-patients", patients=NEW_PATIENTS, seed=NEW_SEED)
    progress.say("== check ==")
    for result in check(table, out=folder / "check", progress=progress).checks:
        progress.say(f"{result.severity}: {result.title} [{result.code}]")
    progress.say("== train ==")
    trained = train(table, out=folder / "run", progress=progress)
    progress.say("== evaluate on new patients ==")
    external = evaluate(trained.bundle, new, out=folder / "evaluation", progress=progress)
    progress.say("== predict ==")
    predictions = predict(
        trained.bundle, [folder / "new-patients" / "images"], out=folder / "predictions.csv", progress=progress
    )
    progress.say(f"{len(predictions)} predictions in {folder / 'predictions.csv'}")
    for name, result_of in (("test part", trained.evaluation), ("new patients", external.evaluation)):
        progress.say(
            f"AUROC on {name}: {result_of.metrics['auroc']}, "
            f"n = {result_of.n_images} images of {result_of.n_patients} patients"
        )
    return trained
