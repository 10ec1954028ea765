"""The configuration of a verb, from an object, a file and ``section.field=value`` changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medgraft.config import Config, load_config
from medgraft.errors import UsageError


def load_settings(
    config: Config | str | Path | None, settings: Sequence[str] = (), values: Mapping[str, object] | None = None
) -> Config:
    """One configuration out of what the caller gave.

    Raises:
        UsageError: every fault at once; CONFIG_TWICE when both an object and changes are given.
    """
    if isinstance(config, Config):
        if settings or values:
            raise UsageError(
                "CONFIG_TWICE", "a Config object takes no settings on top", fix="change the object, or name a file"
            )
        return config
    return load_config(None if config is None else Path(config), settings, values or {})
