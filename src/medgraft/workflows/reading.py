"""How a finished model reads labelled images: by its own rules, and which part of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medgraft.config import Config
from medgraft.data.manifest import Manifest
from medgraft.errors import DataError
from medgraft.inference.bundle import Bundle
from medgraft.types import SPLITS

Part = Literal["all", "train", "val", "test"]


def reading_as_trained(config: Config, bundle: Bundle) -> Config:
    """The bundle's reading rules, except those the user sets on purpose."""
    asked = config.data.model_fields_set
    rules = {name: value for name, value in bundle.rules.model_dump(exclude_unset=True).items() if name not in asked}
    return config.model_copy(update={"data": config.data.model_copy(update=rules)})


def declared_part(manifest: Manifest, part: Part, source: Path) -> Manifest:
    """The rows of the part asked for.

    Raises:
        DataError: PART_EMPTY.
    """
    if part == "all":
        return manifest
    chosen = manifest.part(part)
    if len(chosen) == 0:
        sizes = {name: len(manifest.part(name)) for name in SPLITS}
        raise DataError(
            "PART_EMPTY",
            f"the source declares no image of the part {part}; it has: {sizes}",
            where=str(source),
            fix="leave --part out to evaluate on all images",
        )
    return chosen
