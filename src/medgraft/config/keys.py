"""The tree of keys: what a key may hold, and which key somebody may have meant.

Read off the JSON schema of `Config`, so that ranges and choices stand in one place, the schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from medgraft.config.schema import Config

KeyPath = tuple[str | int, ...]

_NEAR = 0.66
_SHOWN = 60

# What other tools call our keys.
_SYNONYMS = {
    "learning_rate": "training.phases.0.head_lr",
    "lr": "training.phases.0.head_lr",
    "lr_scheduler": "training.phases.0.schedule",
    "early_stopping": "training.phases.0.patience",
    "gamma": "training.focal_gamma",
    "random_state": "training.seed",
    "num_workers": "data.workers",
    "image_size": "model.size",
    "input_size": "model.size",
    "architecture": "model.backbone",
    "arch": "model.backbone",
    "network": "model.backbone",
    "pretrained": "model.weights",
    "validation_split": "data.val_fraction",
    "target": "data.label",
    "image_path": "data.image",
    "patient_id": "data.patient",
    "threshold": "evaluation.operating_point",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One key of the tree, with the part of the schema that describes it."""

    schema: dict[str, Any]

    @property
    def arms(self) -> list[dict[str, Any]]:
        """The alternatives the key accepts, references resolved."""
        return [_resolved(arm) for arm in self.schema.get("anyOf", [self.schema])]

    @property
    def children(self) -> dict[str, Node]:
        """Keys of a section; empty for a value."""
        return {name: Node(_resolved(child)) for name, child in self.schema.get("properties", {}).items()}

    @property
    def item(self) -> Node | None:
        """The section that a list of sections (``training.phases``) holds."""
        for arm in self.arms:
            held = _resolved(arm.get("items", {}))
            if "properties" in held:
                return Node(held)
        return None

    @property
    def kinds(self) -> frozenset[str]:
        """JSON types accepted; ``text`` stands for free text, ``choice`` for named choices."""
        found: set[str] = set()
        for arm in self.arms:
            if _choices(arm):
                found.add("choice")
            else:
                found.add({"string": "text"}.get(arm.get("type", ""), arm.get("type", "")))
        return frozenset(found)

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(choice for arm in self.arms for choice in _choices(arm))

    @property
    def description(self) -> str:
        return str(self.schema.get("description", ""))

    @property
    def allowed(self) -> str:
        """What the key may hold, in words: ``a number from 0 to 1 or 'auto'``."""
        return " or ".join(text for arm in self.arms if (text := _arm_in_words(arm)))


@cache
def root() -> Node:
    return Node(Config.model_json_schema())


def find(path: KeyPath) -> Node | None:
    """The node a path leads to, or None. A list index or a phase name leads to the list's section."""
    node: Node | None = root()
    for part in path:
        if node is None:
            return None
        node = node.item if node.item is not None else node.children.get(str(part))
    return node


def dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def shown(value: object) -> str:
    """A value as it may stand in a message: short, and safe for whole numbers of any length."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of more than 18 digits"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"a list of {len(value)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def near(path: KeyPath) -> list[str]:
    """Up to three keys, in any section, that an unknown key may have been meant as."""
    wanted, last = dotted(path).lower(), str(path[-1]).lower().replace("-", "_")
    scores: dict[str, float] = {}
    for key in _all_keys(root(), ()):
        scores[key] = max(_ratio(last, key.rpartition(".")[2]), _ratio(wanted, key))
    for word, key in _SYNONYMS.items():
        scores[key] = max(scores[key], _ratio(last, word))
    best = sorted((key for key, score in scores.items() if score >= _NEAR), key=lambda key: -scores[key])
    return [key for key in best if scores[key] >= scores[best[0]] - 0.1][:3]


def unknown_fix(path: KeyPath) -> str:
    """The way out of an unknown key: near matches, else all keys of its section."""
    if matches := near(path):
        return f"did you mean {' or '.join(matches)}?"
    parent = find(path[:-1]) or root()
    section = dotted(path[:-1])
    return f"keys of {section or 'the configuration'}: {', '.join(parent.children or root().children)}"


def _ratio(left: str, right: str) -> float:
    return SequenceMatcher(None, left, right).ratio()


def _all_keys(node: Node, path: KeyPath) -> list[str]:
    keys = [dotted(path)] if path else []
    for name, child in node.children.items():
        keys += _all_keys(child, (*path, name))
    if node.item is not None:
        keys += _all_keys(node.item, (*path, 0))[1:]
    return keys


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target: dict[str, Any] = root().schema["$defs"][reference.rpartition("/")[2]]
    return target


def _choices(arm: dict[str, Any]) -> tuple[str, ...]:
    return tuple(arm["enum"]) if "enum" in arm else (arm["const"],) if "const" in arm else ()


def _arm_in_words(arm: dict[str, Any]) -> str:
    if choices := _choices(arm):
        texts = ", ".join(repr(choice) for choice in choices)
        return f"one of {texts}" if len(choices) > 1 else texts
    match arm.get("type"):
        case "number":
            return f"a number{_range(arm)}"
        case "integer":
            return f"a whole number{_range(arm)}"
        case "boolean":
            return "true or false"
        case "object":
            return "a section"
        case "array" if "prefixItems" in arm:
            return f"a list of {len(arm['prefixItems'])} numbers"
        case "array":
            return "a list of sections" if "properties" in _resolved(arm["items"]) else "a list of texts"
        case "string":
            return f"text matching {arm['pattern']}" if "pattern" in arm else "text"
        case _:
            return ""


def _range(arm: dict[str, Any]) -> str:
    low, high = arm.get("minimum"), arm.get("maximum")
    above, below = arm.get("exclusiveMinimum"), arm.get("exclusiveMaximum")
    parts = [
        f"{word} {limit:g}" if abs(limit) < 10**6 else f"{word} {limit}"
        for word, limit in (("above", above), ("from", low), ("to", high), ("below", below))
        if limit is not None
    ]
    return f" {' '.join(parts)}" if parts else ""
