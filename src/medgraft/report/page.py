"""One HTML page: the frame all pages share, and how values get onto it.

    templates/page.html.j2 ◄── evaluation.html.j2, compare.html.j2, … ──► one file that opens anywhere, offline

Names of classes, files and checks come from strangers. Every value that a template prints is cleaned
of control and direction-changing characters and then escaped; the page forbids scripts and requests.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from medgraft.report import wording
from medgraft.types import RESEARCH_USE_ONLY, PixelArray

PICTURE_SIDE = 160

# control characters, lone surrogates and the marks that change the direction of text around them
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def write_page(path: Path, template: str, context: Mapping[str, Any]) -> Path:
    """Render a page and write it.

    Args:
        path: HTML file; its folder exists.
        template: file name in ``templates/``; it extends ``page.html.j2``.
        context: what the template prints; ``notice`` is added.

    Returns:
        The path. The same content gives the same bytes.
    """
    page = _environment().get_template(template).render({"notice": RESEARCH_USE_ONLY, **context})
    path.write_text(page, encoding="utf-8", newline="\n")
    return path


def printable(value: object) -> object:
    """Replace what could hide or reorder text on the page; Jinja calls it on every printed value."""
    return (
        UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


def capital(text: str) -> str:
    """With a capital in front; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def picture(pixels: PixelArray) -> str:
    """``data:`` address of a JPEG with at most 160 pixels on the longer side, aspect kept.

    Args:
        pixels: (h, w, 3) uint8.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=84, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _environment() -> jinja2.Environment:
    folder = files("medgraft.report").joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capital"] = capital
    environment.filters["estimate"] = wording.estimate_text
    environment.filters["metric"] = wording.metric_words
    environment.filters["picture"] = picture
    return environment
