"""Fonts for names in all scripts: Matplotlib's own font, and the fonts of the machine."""

import functools
import logging
from collections.abc import Sequence

FIRST = "DejaVu Sans"
"""The font that Matplotlib brings."""


def families(text: str) -> list[str]:
    """The fonts that have the characters of a text, in the order in which Matplotlib looks them up."""
    others = (_font_of(character) for character in text)
    return [FIRST, *dict.fromkeys(name for name in others if name and name != FIRST)]


def shown(text: str, otherwise: str | None = None) -> str:
    """The text as fonts can show it.

    Args:
      text: a name or a title.
      otherwise: what stands for a text with a character that no font has; None puts `?` for that character.

    Example:
      >>> shown("cat"), shown("\\uffff", "class 3")
      ('cat', 'class 3')
    """
    lacking = {character for character in text if _font_of(character) is None}
    if lacking and otherwise is not None:
        return otherwise
    return "".join("?" if character in lacking else character for character in text)


@functools.lru_cache(maxsize=4096)
def _font_of(character: str) -> str | None:
    """The first font that has a character; None if none has it."""
    if character in " \n":
        return FIRST
    return next((name for name, file in _fonts() if ord(character) in _characters(file)), None)


@functools.cache
def _fonts() -> Sequence[tuple[str, str]]:
    """(name, file) of every upright font, Matplotlib's own first; its others are for symbols alone."""
    import matplotlib
    from matplotlib import font_manager

    own, found = matplotlib.get_data_path(), {}
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname)):
        regular = font.style == "normal" and str(font.weight) in ("normal", "regular", "400")
        if regular and (font.name == FIRST or not font.fname.startswith(own)):
            found.setdefault(font.name, font.fname)
    return sorted(found.items(), key=lambda item: item[0] != FIRST)


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """What a font has; nothing if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError) as error:
        logging.getLogger(__name__).info("%s: %s", file, error)
        return frozenset()
