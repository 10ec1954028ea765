"""The README.md of a bundle: what it is, for whom, how to use it."""

from __future__ import annotations

import json
import re
from typing import Any

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

## Training

| fact | value |
|---|---|
{provenance}

## Limits

The numbers of the training run hold for images like its test images. On another hospital, scanner or
population, measure again with `medgraft evaluate` before trusting any of them.
"""


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else text[:199] + "…"


def _cell(text: str) -> str:
    """Text from outside as one line of literal Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
