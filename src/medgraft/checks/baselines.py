"""What next to no model achieves on the same images: the least that a model has to beat.

    Judging ─┬─ class shares            ─► majority
             ├─ 32x32 thumbnails        ─► thumbnail_1nn, thumbnail_logistic
             ├─ size, file, border      ─► metadata
             └─ place in the stack      ─► position, where slices have one
                                                └─► Baseline: probabilities of every judged image

None of them can see what a reader would look for. Where one of them does well, either the task is easy or something
other than the disease tells the classes apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from medgraft.checks.attributes import image_attributes, slice_position
from medgraft.checks.judging import Judging
from medgraft.checks.regions import thumbnails
from medgraft.checks.simple_models import Features, SimpleModel, forest, logistic, nearest_neighbor
from medgraft.config.schema import EvaluationConfig
from medgraft.evaluation.bootstrap import Bootstrap
from medgraft.evaluation.differences import Answers
from medgraft.evaluation.estimates import MetricEstimates
from medgraft.evaluation.resample import WeightedMetrics
from medgraft.types import Estimate, FloatArray, IntArray, Scores

METRICS = ("auroc", "accuracy", "balanced_accuracy")
_RANKED = 2000  # images that are enough to say which feature alone tells most
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Baseline:
    """What one simple model says of n images it has not seen.

    Attributes:
        name: as in evaluation.json.
        rows: (n,) which of the images of the judging it answers.
        scores: its probabilities of these.
        protocol: what it was fitted on, in words.
        features: what it sees, in words.
        leading: what tells most on its own, with its AUROC (of the class it tells best, either direction, on the
            images themselves), best first; empty where single features mean nothing.
    """

    name: str
    rows: IntArray
    scores: Scores
    protocol: str
    features: str
    leading: tuple[tuple[str, float], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: IntArray) -> Baseline:
        """The same for those of ``rows`` that it answers, in that order."""
        place = {row: at for at, row in enumerate(self.rows.tolist())}
        kept = np.array([place[row] for row in np.asarray(rows).tolist() if row in place], dtype=np.int64)
        return replace(self, rows=self.rows[kept], scores=_taken(self.scores, kept))

    def matched(self, model: Answers) -> tuple[Answers, Answers]:
        """Answers of a model and of this baseline to the images that both answer, in the order of the model.

        Raises:
            ValueError: the classes differ, or there is no such image.
        """
        theirs, place = model.scores, {name: at for at, name in enumerate(self.scores.sample_ids)}
        if theirs.classes != self.scores.classes:
            raise ValueError(f"the model knows {theirs.classes}, the baseline {self.scores.classes}")
        kept = np.array([at for at, name in enumerate(theirs.sample_ids) if name in place], dtype=np.int64)
        if not len(kept):
            raise ValueError(f"the model and the baseline {self.name} answer no image in common")
        asked = _taken(theirs, kept)
        own = self.scores.y_proba[[place[name] for name in asked.sample_ids]]
        return Answers(asked, model.predicted[kept]), _answers(replace(asked, y_proba=own))

    @property
    def answers(self) -> Answers:
        """Its probabilities and the most probable class of each image."""
        return _answers(self.scores)


def trivial_baselines(judge: Judging) -> tuple[Baseline, ...]:
    """The baselines of the images of a judging.

    Args:
        judge: who is predicted, and from whom.

    Returns:
        ``majority``, ``thumbnail_1nn``, ``thumbnail_logistic``, ``metadata`` and, where slices have one,
        ``position``; nothing where there is too little to fit on, as ``judge.too_few`` says.
    """
    if judge.too_few is not None:
        return ()
    shares = np.broadcast_to(judge.shares, (len(judge.rows), len(judge.classes)))
    small = thumbnails(judge.used.pixels)
    seen = "images averaged over 32x32 cells" + (", in color" if small.shape[1] > 32 * 32 else "")
    found = [
        Baseline("majority", judge.rows, judge.scores(shares), judge.protocol, "class shares only"),
        make_baseline("thumbnail_1nn", judge, nearest_neighbor, small, described=seen),
        make_baseline("thumbnail_logistic", judge, logistic, small, described=seen),
        metadata_baseline(judge),
    ]
    position = slice_position(judge.images.manifest)
    if position is not None:
        curve = _curve(position[judge.used_rows])
        found.append(make_baseline("position", judge, logistic, curve, described="place of the slice in its stack"))
    return tuple(found)


def metadata_baseline(judge: Judging) -> Baseline:
    """The label predicted from the attributes of files, borders and corners."""
    known = image_attributes(judge.used).of("metadata")
    features = known.values.astype(np.float32)
    described = "size, aspect, bytes and format of the file, brightness of border and corners"
    found = make_baseline("metadata", judge, forest, features, described=described)
    return replace(found, leading=leading(features, known.names, judge.label))


def make_baseline(name: str, judge: Judging, model: SimpleModel, features: Features, *, described: str) -> Baseline:
    """Predictions of a simple model from some features of ``judge.used``."""
    proba = judge.predict(model, features)
    return Baseline(name, judge.rows, judge.scores(proba), judge.protocol, described)


def leading(features: Features, names: tuple[str, ...], label: IntArray) -> tuple[tuple[str, float], ...]:
    """Which features tell most on their own.

    Args:
        features: (N, D).
        names: D names; of equal ones the best counts, and where that settles nothing their mean.
        label: (N,) class index.

    Returns:
        Up to five names, each with its AUROC, 0.5..1, for the class it tells best from the rest. At most about 2,000
        images are looked at.
    """
    step = -(-len(label) // _RANKED)
    rank, label = rankdata(features[::step], axis=0), label[::step]
    best = np.full(features.shape[1], 0.5)
    for c in np.unique(label).tolist():
        case = label == c
        n_case, n_rest = int(case.sum()), int((~case).sum())
        if n_rest:
            area = (rank[case].mean(axis=0) - (n_case + 1) / 2) / n_rest
            best = np.maximum(best, np.maximum(area, 1.0 - area))
    of_name: dict[str, list[float]] = {}
    for name, area in zip(names, best.tolist(), strict=True):
        of_name.setdefault(name, []).append(area)
    order = sorted(of_name, key=lambda name: (-round(max(of_name[name]), 2), -float(np.mean(of_name[name]))))
    return tuple((name, max(of_name[name])) for name in order[:_SHOWN])


def estimate_metrics(
    answers: Answers, config: EvaluationConfig, *, patients_known: bool, seed: int
) -> dict[str, Estimate]:
    """AUROC, accuracy and balanced accuracy with the intervals that the numbers of a model have.

    Args:
        answers: to N images.
        config: level, resamples and kind of interval.
        patients_known: whether ``patient_ids`` are patients.
        seed: of the resamples.

    Returns:
        By metric name; of more than two classes AUROC is the mean of each class against the rest.
    """
    scores, predicted = answers.scores, answers.predicted
    positive = 1 if len(scores.classes) == 2 else None  # either class gives the same values
    bootstrap = Bootstrap(scores, config, seed=seed, kind="patient" if patients_known else "image")
    maker = MetricEstimates(scores, predicted, WeightedMetrics(scores, predicted, positive=positive), bootstrap)
    if positive is not None:
        return {metric: maker.of_class(scores.classes[positive], metric) for metric in METRICS}
    per_class = {name: {metric: maker.of_class(name, metric) for metric in _AVERAGED} for name in scores.classes}
    return {metric: maker.of_task(metric, per_class) for metric in METRICS}


_AVERAGED = ("auroc", "sensitivity")  # what AUROC and balanced accuracy of more than two classes are means of


def _curve(position: FloatArray) -> npt.NDArray[np.float32]:
    """(N, 3) terms of a cubic curve over the stack, on the scale of grey levels that the logistic model wants."""
    powers = np.polynomial.legendre.legvander(2.0 * position - 1.0, 3)[:, 1:]
    return (127.5 * powers).astype(np.float32)


def _answers(scores: Scores) -> Answers:
    return Answers(scores, scores.y_proba.argmax(axis=1).astype(np.int64))


def _taken(scores: Scores, kept: IntArray) -> Scores:
    return Scores(
        tuple(scores.sample_ids[at] for at in kept.tolist()),
        tuple(scores.patient_ids[at] for at in kept.tolist()),
        scores.classes,
        scores.y_true[kept],
        scores.y_proba[kept],
    )
