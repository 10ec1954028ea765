"""Options that many verbs share, declared once.

@with_settings(...)            adds --label, --recipe, --set, … to the options of a verb,
def verb(…, asked: Asked)      which gets what was given as one value
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from medgraft.cli.display import DISPLAY

if TYPE_CHECKING:
    from medgraft.config import Config

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def _set_debug(value: bool) -> bool:
    # what a callback returns is what the verb gets
    DISPLAY.debug = value or DISPLAY.debug
    return value


def _set_json(value: bool) -> bool:
    DISPLAY.as_json = value or DISPLAY.as_json
    return value


Source = Annotated[Path, typer.Argument(help="Folder of class folders, or a CSV/TSV table.", show_default=False)]
RunFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run; runs/DATE-NAME by default.", show_default=False)
]
Device = Annotated[DeviceName | None, typer.Option("--device", help="Where to compute.", show_default=False)]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", callback=_set_json, help="Print the result, or the error, as JSON.")]


def _text(name: str, about: str) -> Any:
    return Annotated[str | None, typer.Option(name, help=about, show_default=False)]


def _path(name: str, about: str) -> Any:
    return Annotated[Path | None, typer.Option(name, help=about, show_default=False)]


Group = Literal["data", "network", "training", "strict", "subgroups"]

# Dotted key of the configuration, and the option that sets it.
_OPTIONS: dict[Group, dict[str, Any]] = {
    "data": {
        "data.label": _text("--label", "Table column with the class."),
        "data.image": _text("--image", "Table column with the file or image id."),
        "data.patient": _text("--patient", "Table column with the patient."),
        "data.split": _text("--split", "Table column with train, val or test."),
        "data.images": _path("--images", "Folder where the table's images live."),
        "data.patient_preset": _text("--patient-preset", "Named rule for patients in file names, such as chest-xray."),
        "data.patient_regex": _text(
            "--patient-regex", "Regular expression on the file path; its groups are the patient."
        ),
    },
    "network": {
        "model.backbone": _text("--backbone", "Catalogue, Keras or timm name."),
        "model.weights": _text("--weights", "auto, none (from scratch), hub, or a .safetensors file."),
    },
    "training": {
        "data.fraction": Annotated[
            float | None,
            typer.Option("--fraction", help="Share of the images to use, by class and patient.", show_default=False),
        ],
        "training.seed": Annotated[
            int | None, typer.Option("--seed", help="Same seed, same result.", show_default=False)
        ],
        "training.device": Device,
    },
    "strict": {
        "checks.strict": Annotated[
            bool | None,
            typer.Option("--strict", help="Refuse test images that training has seen.", show_default=False),
        ],
    },
    "subgroups": {
        "evaluation.by": _text("--by", "Columns whose values become subgroups, with commas between: sex,site."),
    },
}
_RECIPE = _text("--recipe", "Configuration of a published system; `medgraft recipes` lists them.")
_CONFIG = _path("--config", "TOML file with settings.")
_SET = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting as section.field=value; repeatable.", show_default=False),
]


@dataclass(frozen=True)
class Asked:
    """What the options say of the configuration.

    Attributes:
        config: file.
        recipe: name.
        changes: ``section.field=value`` texts.
        values: dotted keys of the options given.
    """

    config: Path | None = None
    recipe: str | None = None
    changes: tuple[str, ...] = ()
    values: dict[str, object] = field(default_factory=dict)

    def and_value(self, key: str, value: object) -> Asked:
        """The same with one more option."""
        return replace(self, values={**self.values, key: value})

    def load(self) -> Config:
        """One validated configuration; all faults at once."""
        from medgraft.workflows.settings import load_settings

        return load_settings(self.config, self.changes, self.values, recipe=self.recipe)


def with_settings(
    *groups: Group, device: bool = False, recipe: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of some groups, ``--config``, ``--set`` and mostly ``--recipe`` to a verb.

    Args:
        groups: which options.
        device: add ``--device`` alone of the group ``training``.
        recipe: add ``--recipe``; not for a finished model, which has its own.

    Returns:
        A decorator for a function with the parameter ``asked: Asked``.
    """
    options = {key: option for group in groups for key, option in _OPTIONS[group].items()}
    if device:
        options["training.device"] = Device
    names = {key: key.replace(".", "__") for key in options}

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def command(**given: Any) -> None:
            values = {key: value for key, name in names.items() if (value := given.pop(name)) is not None}
            if "evaluation.by" in values:
                values["evaluation.by"] = tuple(name.strip() for name in str(values["evaluation.by"]).split(","))
            name, config, changes = given.pop("recipe", None), given.pop("config"), given.pop("set_")
            verb(**given, asked=Asked(config, name, tuple(changes or ()), values))

        hints = get_type_hints(verb, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(verb).parameters.items()
            if name != "asked"
        ]
        shared = {**{names[key]: option for key, option in options.items()}}
        shared |= {"recipe": _RECIPE} if recipe else {}
        shared |= {"config": _CONFIG, "set_": _SET}
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in shared.items()]
        own = [parameter.replace(kind=kind) for parameter in own]
        # typer reads options off the signature: this one has the verb's own and the shared ones
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
        return command

    return decorate
