"""HTML pages that open from disk, with everything in one file and one style."""

import base64
from datetime import date
from pathlib import Path
from typing import Any

import jinja2

STYLE = Path(__file__).with_name("page.css")


def page(template: Path, **values: Any) -> str:
    """A page from a template of Jinja, which also has `style` (rules for all pages) and `today`."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = STYLE.read_text(encoding="utf-8")
    made = environment.from_string(template.read_text(encoding="utf-8"))
    return made.render(style=style, today=date.today().isoformat(), **values)


def uri(picture: bytes, kind: str) -> str:
    """A picture as a part of a page; `kind` is `png` or `svg+xml`."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
