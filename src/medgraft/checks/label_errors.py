"""Labels that are probably wrong, by confident learning on out-of-fold probabilities.

    probabilities (N, C) from probes that saw neither the image nor its patient
      ─► confident joint: images that look like another class as surely as the images of that class do
      ─► noise model:     how many contradictions the model's own uncertainty does not explain
      ─► suspects: both say so, the most contradicted first

Confident learning alone takes every sure mistake of the model for a wrong label: 189 of the 3,600 of a set of
lymph-node patches. So its candidates count only where the probabilities, calibrated anew, leave more contradictions
than they should: where a share of labels that are wrong at random explains the labels better than no such share.

LABEL_SUSPECTED    labels contradicted more surely than chance explains, ranked
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, minimize
from scipy.special import chdtrc, expit, softmax

from medgraft.data.manifest import Manifest
from medgraft.types import CheckResult, FloatArray, IntArray

_SHOWN = 50
# Chance of a share of wrong labels where there is none; low, since mistakes of a model are not quite random either.
_ALPHA = 0.001
_LIKELY = 0.5  # least probability of being wrong
_TINY = 1e-12
# Of the share on the logit scale, and of the inverse temperature on the logarithm.
_SHARE_BOUNDS, _SCALE_BOUNDS, _BIAS_BOUNDS = (-9.0, 0.0), (-3.0, 3.0), (-5.0, 5.0)
_STARTS = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Suspect:
    """One image whose label is probably wrong.

    Attributes:
        row: position of the image.
        given: class index as labelled.
        suggested: class index that the image looks like.
        proba_given: out-of-fold probability of the label, 0..1.
        proba_suggested: of the suggested class.
        margin: probability of the label less that of the likeliest other class, -1..1; the lowest comes first.
        wrong: probability that the label is wrong, by the noise model.
    """

    row: int
    given: int
    suggested: int
    proba_given: float
    proba_suggested: float
    margin: float
    wrong: float


@dataclass(frozen=True)
class LabelErrors:
    """What out-of-fold probabilities say of the labels.

    Attributes:
        suspects: the most contradicted first; empty unless ``p`` is below 0.001.
        share: of all labels that are wrong at random, by the noise model, 0..1.
        per_class: (C,) the same for the images labelled so; 0 for a class without images.
        p: how often as large a share would be found where no label is wrong.
        joint: (C, C) images by label and by the class they surely look like: the confident joint.
        thresholds: (C,) mean probability of the label over the images of a class; NaN without images.
        n_images: N.
        n_groups: patients, or independent images.
    """

    suspects: tuple[Suspect, ...]
    share: float
    per_class: FloatArray
    p: float
    joint: IntArray
    thresholds: FloatArray
    n_images: int
    n_groups: int


def suspected_labels(proba: FloatArray, label: IntArray, *, group: IntArray | None = None) -> LabelErrors:
    """Find labels that are probably wrong.

    With labels turned at random, precision and recall of the suspects on frozen features were: 5,232 chest X-rays, 3 %
    turned: 0.92 and 0.66, 10 %: 0.93 and 0.68; 1,200 brain slices of four classes: 0.67 and 0.59, 0.83 and 0.62; 3,600
    lymph-node patches: none suspected, 0.80 and 0.23; 253 brain images: 0.21 and 0.44, 0.62 and 0.72. With the labels
    as they are none was suspected in any of them. The limits of p and of the probability were chosen on these sets.
    Where features tell the classes apart poorly little is found; in small sets the model's own mistakes stand among it.

    Args:
        proba: (N, C) of each image, from a model that saw neither it nor its group; rows sum to 1.
        label: (N,) class index as given.
        group: (N,) patient of each image. A patient counts once in the test for a share of wrong labels, since all
            images of one may be misjudged together. None for independent images.

    Returns:
        Suspects and shares; no suspects where chance explains all contradictions.

    Source:
        Northcutt, Jiang and Chuang, JAIR 2021; 70:1373-1411 (thresholds, confident joint, normalized margin). Noise
        model: a label is that of the calibrated probabilities, or with a share any other class, as in Bootkrajang and
        Kaban, ECML 2012 (robust logistic regression), with one share. Self and Liang, JASA 1987; 82:605-610, case 5,
        for a share on the border: half of chi-square with one degree of freedom.
    """
    n, n_classes = proba.shape
    if label.shape != (n,) or (group is not None and group.shape != (n,)):
        raise ValueError(f"lengths differ: {proba.shape} probabilities, {label.shape} labels")
    groups = np.arange(n) if group is None else np.unique(group, return_inverse=True)[1]
    thresholds, likely = confident_classes(proba, label)
    joint = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(joint, (label[likely >= 0], likely[likely >= 0]), 1)
    share, wrong, p = _noise(proba, label, 1.0 / np.bincount(groups)[groups])
    counts = np.bincount(label, minlength=n_classes)
    per_class = np.bincount(label, weights=wrong, minlength=n_classes) / np.maximum(counts, 1)
    suspects: list[Suspect] = []
    if p < _ALPHA:
        own = proba[np.arange(n), label]
        rows = np.flatnonzero((likely >= 0) & (likely != label) & (wrong > _LIKELY))
        for row in rows.tolist():
            given, suggested = int(label[row]), int(likely[row])
            best = float(np.delete(proba[row], given).max())
            values = float(own[row]), float(proba[row, suggested]), float(own[row]) - best, float(wrong[row])
            suspects.append(Suspect(row, given, suggested, *values))
    suspects.sort(key=lambda suspect: (suspect.margin, suspect.row))
    n_groups = int(groups.max()) + 1 if n else 0
    return LabelErrors(tuple(suspects), share, per_class, p, joint, thresholds, n, n_groups)


def confident_classes(proba: FloatArray, label: IntArray) -> tuple[FloatArray, IntArray]:
    """Thresholds of confident learning, and the class that each image surely looks like.

    Args:
        proba: (N, C) out-of-fold.
        label: (N,) class index as given.

    Returns:
        (C,) mean probability of the label over the images of each class, NaN for a class without images; (N,) the
        likeliest class among those whose threshold the image reaches, -1 for none.

    Source:
        Northcutt, Jiang and Chuang 2021, equations 1 and 2.
    """
    n, n_classes = proba.shape
    counts = np.bincount(label, minlength=n_classes)
    sums = np.bincount(label, weights=proba[np.arange(n), label], minlength=n_classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    # A mean of equal numbers may exceed them by a rounding error.
    reached = proba >= np.where(counts > 0, thresholds - _TINY, np.inf)
    likely = np.where(reached.any(axis=1), np.where(reached, proba, -1.0).argmax(axis=1), -1)
    return thresholds, likely.astype(np.int64)


def _noise(proba: FloatArray, label: IntArray, weight: FloatArray) -> tuple[float, FloatArray, float]:
    """Share of labels wrong at random, (N,) probability of each being wrong, and the p-value of the share.

    P(label | image) = (1 - share) s_label + share (1 - s_label) / (C - 1), with s the softmax of scaled and shifted
    logits. The share comes from contradictions that no temperature explains.
    """
    n, n_classes = proba.shape
    if n == 0 or len(np.unique(label)) < 2:
        return 0.0, np.zeros(n), 1.0
    logits = np.log(np.maximum(proba, _TINY))
    model = _Noise(logits - logits.mean(axis=1, keepdims=True), label, weight)
    plain = model.fit(np.concatenate([[0.0, -np.inf], np.zeros(n_classes)]))
    starts = [plain.x + np.concatenate([[step], np.zeros(n_classes + 1)]) for step in _STARTS]
    fits = [model.fit(np.concatenate([start[:1], [-3.0], start[2:]])) for start in starts]
    best = min(fits, key=lambda found: found.loss)
    gain = 2.0 * (plain.loss - best.loss)
    if gain <= 0:
        return 0.0, np.zeros(n), 1.0
    share, own = model.share(best.x), model.own(best.x)
    other = share * (1 - own) / (n_classes - 1)
    return share, other / ((1 - share) * own + other), float(chdtrc(1, gain) / 2)


def check_labels(manifest: Manifest, errors: LabelErrors) -> tuple[CheckResult, ...]:
    """Suspected labels, counted by label and suggested class, with the most contradicted images.

    Args:
        manifest: the N samples that were judged, in the same order.
        errors: as `suspected_labels` gave them.
    """
    if len(manifest) != errors.n_images:
        raise ValueError(f"{errors.n_images} judged labels for {len(manifest)} samples")
    if not errors.suspects:
        return ()
    ids, names = list(manifest.table["sample_id"]), manifest.classes
    pairs = Counter((suspect.given, suspect.suggested) for suspect in errors.suspects).most_common()
    told = ", ".join(f"{count:,} {names[given]} look like {names[other]}" for (given, other), count in pairs[:4])
    evidence = {
        "suspects": len(errors.suspects),
        "n_images": errors.n_images,
        "n_groups": errors.n_groups,
        "share": round(errors.share, 4),
        "p": errors.p,
        "per_class": {name: round(float(value), 4) for name, value in zip(names, errors.per_class, strict=True)},
        "pairs": [{"given": names[given], "suggested": names[other], "images": n} for (given, other), n in pairs],
        "examples": [_shown(suspect, ids[suspect.row], names) for suspect in errors.suspects[:_SHOWN]],
    }
    title = (
        f"{len(errors.suspects):,} of {errors.n_images:,} labels are probably wrong ({told}); "
        f"about {errors.share:.1%} of all labels would be, p = {errors.p:.1g}"
    )
    advice = "look at them, the first are the surest; correct those that are wrong, and leave none out unseen"
    return (CheckResult("LABEL_SUSPECTED", "warning", title, evidence, advice),)


def _shown(suspect: Suspect, sample_id: str, classes: Sequence[str]) -> dict[str, str | float]:
    return {
        "sample": sample_id,
        "given": classes[suspect.given],
        "suggested": classes[suspect.suggested],
        "proba_given": round(suspect.proba_given, 4),
        "proba_suggested": round(suspect.proba_suggested, 4),
        "wrong": round(suspect.wrong, 3),
    }


@dataclass(frozen=True)
class _Fit:
    x: FloatArray
    loss: float


@dataclass(frozen=True)
class _Noise:
    """The likelihood of labels: x holds log of the inverse temperature, logit of the share, C biases.

    ``weight`` makes a patient count once.
    """

    logits: FloatArray
    label: IntArray
    weight: FloatArray

    def share(self, x: FloatArray) -> float:
        return float(expit(x[1]))

    def own(self, x: FloatArray) -> FloatArray:
        """(N,) calibrated probability of the label."""
        calibrated: FloatArray = softmax(np.exp(x[0]) * self.logits + x[2:], axis=1)
        return calibrated[np.arange(len(self.label)), self.label]

    def fit(self, start: FloatArray) -> _Fit:
        """Most likely parameters; a share of 0 (logit minus infinity) stays."""
        free = np.ones(len(start), dtype=bool)
        free[1] = np.isfinite(start[1])
        free[2] = False  # a shift of all logits changes nothing
        low, high = np.array([_SCALE_BOUNDS, _SHARE_BOUNDS, *[_BIAS_BOUNDS] * (len(start) - 2)])[free].T

        def loss(values: FloatArray) -> tuple[float, FloatArray]:
            x = start.copy()
            x[free] = values
            value, slope = self._loss(x)
            return value, slope[free]

        found = minimize(loss, np.clip(start[free], low, high), jac=True, method="L-BFGS-B", bounds=Bounds(low, high))
        x = start.copy()
        x[free] = found.x
        return _Fit(x, float(found.fun))

    def _loss(self, x: FloatArray) -> tuple[float, FloatArray]:
        rows, n_classes = np.arange(len(self.label)), self.logits.shape[1]
        share, scale = self.share(x), float(np.exp(x[0]))
        calibrated = softmax(scale * self.logits + x[2:], axis=1)
        own = calibrated[rows, self.label]
        said = np.maximum((1 - share) * own + share * (1 - own) / (n_classes - 1), 1e-300)
        pull = self.weight / said
        by_logit = -calibrated * (pull * own * (1 - share - share / (n_classes - 1)))[:, None]
        by_logit[rows, self.label] -= by_logit.sum(axis=1)
        by_share = float((pull * ((1 - own) / (n_classes - 1) - own)).sum()) * share * (1 - share)
        by_scale = scale * float((by_logit * self.logits).sum())
        return -float((self.weight * np.log(said)).sum()), -np.concatenate([[by_scale, by_share], by_logit.sum(axis=0)])
