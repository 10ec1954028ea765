"""docs/checks.md has one entry for every code that checks.json can hold, and none for a code that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from medgraft.checks.integrity import _REMARKS
from medgraft.data.pixels import _NOT_KEPT
from medgraft.data.split import assign_splits

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "medgraft"
PAGE = (REPOSITORY / "docs" / "checks.md").read_text(encoding="utf-8")
CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|PATIENTS|SHIFT")
ERRORS = ("UsageError", "DataError", "ModelError", "TrainingError", "ResourceError", "Problem")


@cache
def modules() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def calls(tree: ast.AST, *names: str) -> list[ast.Call]:
    """Calls of functions or methods of these names."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in found if (getattr(call.func, "id", "") or getattr(call.func, "attr", "")) in names]


def argument(call: ast.Call, place: int, name: str) -> ast.expr | None:
    if place < len(call.args):
        return call.args[place]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def code_of(call: ast.Call) -> ast.expr:
    found = argument(call, 0, "code")
    assert found is not None, f"without a code: {ast.unparse(call)}"
    return found


def codes_in(*trees: ast.AST) -> Iterator[str]:
    """Text constants that look like codes, but for those that errors and results name themselves."""
    for tree in trees:
        named = {id(node) for call in calls(tree, *ERRORS, "CheckResult") for node in ast.walk(code_of(call))}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        yield from (str(text.value) for text in texts if id(text) not in named and CODE.fullmatch(str(text.value)))


def near(call: ast.Call, tree: ast.Module) -> list[ast.AST]:
    """Where the code of a call can come from: the function around it, calls of that one, tables of the module."""
    around = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and call in ast.walk(node)]
    function = max(around, key=lambda node: node.lineno)
    tables = [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    return [function, *calls(tree, function.name), *tables]


def matching(pattern: ast.JoinedStr, tree: ast.Module) -> list[str]:
    """Codes that an f-string can make, of those that the module's docstring lists."""
    parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[A-Z0-9_]+" for part in pattern.values]
    listed = re.findall(r"^([A-Z0-9_]+)  ", ast.get_docstring(tree) or "", re.MULTILINE)
    found = [code for code in listed if re.fullmatch("".join(parts), code)]
    assert found, f"the docstring lists no code like {ast.unparse(pattern)}"
    return found


def severity_of(call: ast.Call) -> set[str]:
    """The severity that a call names; nothing where it is computed."""
    severity = argument(call, 1, "severity")
    return {str(severity.value)} if isinstance(severity, ast.Constant) else set()


@cache
def severities() -> dict[str, set[str]]:
    """Every code there is, with the severities that are named for it."""
    found: dict[str, set[str]] = {code: {severity} for code, (severity, _) in _REMARKS.items()}
    for tree in modules().values():
        for call in calls(tree, "CheckResult"):
            code = code_of(call)
            if isinstance(code, ast.Constant):
                codes = [str(code.value)]
            elif isinstance(code, ast.JoinedStr):
                codes = matching(code, tree)
            else:
                codes = [one for one in codes_in(*near(call, tree)) if one not in _REMARKS]
            for one in codes:
                found.setdefault(one, set()).update(severity_of(call))
    # `check` reports what splitting refuses, and goes on
    for code in re.findall(r"``([A-Z_]+)``", assign_splits.__doc__ or ""):
        found.setdefault(code, set()).add("error")
    return found


@cache
def entries() -> list[tuple[str, str]]:
    """Headings that are codes, each with the text below it."""
    page = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    blocks = [block.partition("\n") for block in re.split(r"^#+ ", page, flags=re.MULTILINE)]
    return [(title, text.strip()) for title, _, text in blocks if re.fullmatch(r"[A-Z][A-Z0-9_]+", title)]


def test_codes_are_found_however_they_are_made() -> None:
    found = severities()
    assert found["COPIES_EXACT"] == {"warning"}  # said in the call
    assert found["COPIES_ACROSS_PARTS"] == {"error"}  # handed to a function
    assert found["LINKS_BROKEN"] == {"warning"}  # one of a table in a loop
    assert found["SHORTCUT_RELIES_ON_TEXT"] == {"warning"}  # put together
    assert found["CLASS_TOO_SMALL"] == {"error"}  # taken from an error
    assert found["IMG_CONSTANT"] == {"warning"} and found["DICOM_WINDOWED"] == {"note"}  # remarks of decoders
    assert "LEAK_REFUSED" not in found and "BAD_IMAGES" not in found  # errors that never become results


def test_every_code_has_one_entry_and_every_entry_a_code() -> None:
    titles = [title for title, _ in entries()]
    assert len(titles) == len(set(titles)), "a code has two entries"
    assert sorted(set(severities()) - set(titles)) == [], "codes without an entry in docs/checks.md"
    assert sorted(set(titles) - set(severities())) == [], "entries of docs/checks.md without a code"


def test_every_entry_begins_with_the_severity_of_its_code() -> None:
    for title, text in entries():
        said = re.match(r"\*\*(error|warning|note)(?: or (error|warning|note))?\*\*\. \S", text)
        assert said, f"{title} does not begin with a severity"
        assert severities()[title] <= set(said.groups()), f"{title} is {severities()[title]} in the code"


def test_every_remark_of_a_decoder_is_known() -> None:
    trees = [tree for path, tree in modules().items() if path.parent.name == "data"]
    remarks = {code for code in codes_in(*trees) if code.startswith(("IMG_", "DICOM_"))}
    assert remarks - set(_NOT_KEPT) == set(_REMARKS)


def test_links_within_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
