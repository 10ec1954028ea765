"""The README.md of a bundle: what it is, for whom, how to use it."""

from __future__ import annotations

import json
import re
from typing import Any

from medgraft.evaluation.conformal import Conformal, refer_band
from medgraft.evaluation.operating_point import OperatingPoint
from medgraft.types import RESEARCH_USE_ONLY


def model_card(facts: dict[str, Any]) -> str:
    """Markdown model card.

    Args:
        facts: the content of bundle.json.
    """
    height, width = facts["preprocess"]["size"]
    provenance = "\n".join(f"| {_cell(key)} | {_cell(_short(value))} |" for key, value in facts["provenance"].items())
    classes = "\n".join(f"{index}. {_cell(name)}" for index, name in enumerate(facts["classes"]))
    point = facts["operating_point"]
    return f"""# medgraft bundle

**{RESEARCH_USE_ONLY}**

An image classifier with {len(facts["classes"])} classes, its preprocessing and its operating point.
Input: images of any size, brought to {height}x{width} pixels ({facts["preprocess"]["resize"]}).
Output: calibrated probabilities (temperature {facts["temperature"]:.4g}) and a label
(rule {_cell(str(point.get("rule", "argmax")))}).

## Classes

{classes}

## Use

    medgraft predict THIS_FOLDER images/ --out predictions.csv
    medgraft evaluate THIS_FOLDER new-data/

{_prediction_sets(facts)}## Training

| fact | value |
|---|---|
{provenance}

{_memory(facts)}

## Limits

The numbers of the training run hold for images like its test images. On another hospital, scanner or
population, measure again with `medgraft evaluate` before trusting any of them.
"""


def _prediction_sets(facts: dict[str, Any]) -> str:
    if facts["conformal"] is None:
        return ""
    conformal = Conformal.from_dict(facts["conformal"])
    band = refer_band(conformal, OperatingPoint.from_dict(facts["operating_point"]))
    where = "" if band is None else f" Here that is: {_cell(band['text'])}."
    return f"""## Prediction sets

Beside its label an image gets a set: every class with a probability of at least {conformal.threshold:.4g}.
Asked coverage: {conformal.coverage:g}. {conformal.promise}

An image whose set is not exactly its label is marked `refer`: leave it to a person.{where} A set can be empty.
Sets come from one plain pass of this bundle: with `--tta`, with `--mc` and in ensembles there are none.

"""


def _memory(facts: dict[str, Any]) -> str:
    if facts["seen"] is None:
        return "The bundle remembers none of its training images: whether it has seen an image cannot be told from it."
    exact, near = (facts["seen"][name] for name in ("exact", "near"))
    return f"""`seen.safetensors` remembers {exact:,} images of the training run by hashes of their pixels and
{near:,} by 256 bits of what they show, so that `medgraft evaluate` finds copies of them elsewhere. Neither images nor
names are in it, and no more than a faint blur can be guessed from the bits. Whoever has an image can tell from it
whether that image was there, which is its purpose."""


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else text[:199] + "…"


def _cell(text: str) -> str:
    """Text from outside as one line of literal Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
