"""Fonts for the texts of pictures: Matplotlib's own has no Chinese, Japanese or Korean."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from paddleseg.utils import logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chinese_font", "choose_fonts"]

#: Words in the names of fonts that are less easy to read in a picture, the worst last.
_UNLIKELY = ("serif", "mono", "condensed", "light", "thin", "black", "bold", "italic", "oblique")
#: Draws a box for every character there is.
_LAST_RESORT = "Last Resort"
#: End of the name of a font with the simplified characters of China.
_CHINESE = " SC"
_FONT_SIZE = 10


def choose_fonts(figure: Figure) -> None:
    """Give the texts of a figure fonts that have all their characters.

    Call it before the figure is saved.  A figure whose characters are all in Matplotlib's font, as
    Latin and Greek letters are, stays as it is, and costs next to nothing.  Otherwise all installed
    fonts are looked through, also those that are newer than Matplotlib's list of fonts.  If none
    has the characters, one warning in the log names them and what to install.

    Args:
        figure: the figure, complete.
    """
    texts = [text for text in _texts(figure) if not text.get_text().isascii()]
    missing = {char for text in texts for char in _missing_in_default_font(text.get_text())}
    if not missing:
        return
    families = _families_with("".join(sorted(missing)))
    for text in texts:
        text.set_family([*text.get_family(), *families])


def chinese_font() -> str | None:
    """Return the file of a font that has Chinese characters, or None if none is installed."""
    wanted = set("损失")
    return next((path for path in _fonts() if _covered(path, wanted) == wanted), None)


def _texts(figure: Figure) -> list[Any]:
    from matplotlib.text import Text

    # The texts of ticks are up to date only after this.
    for axes in figure.axes:
        axes.get_xticklabels()
        axes.get_yticklabels()
    return figure.findobj(Text)


def _missing_in_default_font(text: str) -> list[str]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return [char for char in text if char.isprintable() and not font.get_char_index(ord(char))]


@functools.cache
def _families_with(characters: str) -> list[str]:
    """Return fonts that have the characters, as few as possible; log which characters none has."""
    remaining, families = set(characters), []
    covered_by = {font: covered for font in _fonts() if (covered := _covered(font, remaining))}
    while remaining and covered_by:
        best = max(covered_by, key=lambda font: len(covered_by[font] & remaining))
        if not covered_by[best] & remaining:
            break
        remaining -= covered_by.pop(best)
        families.append(_family_of(best))
    if remaining:
        _warn_about(remaining)
    return families


def _fonts() -> list[str]:
    """Return the files of all fonts, the most readable first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = [font.fname for font in fontManager.ttflist if not font.name.startswith(_LAST_RESORT)]
    return sorted({*known, *findSystemFonts()}, key=_unlikeliness)


def _unlikeliness(path: str) -> tuple[int, str]:
    name = path.rpartition("/")[2].lower()
    return sum(index + 1 for index, word in enumerate(_UNLIKELY) if word in name), path


def _covered(path: str, characters: Iterable[str]) -> set[str]:
    """Return the characters that a font has; none, if Matplotlib cannot draw with it."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
        # Fonts of coloured pictures have no outlines, and fail here.
        font.set_size(_FONT_SIZE, 72)
    except (OSError, RuntimeError):
        return set()
    if font.family_name.startswith(_LAST_RESORT):
        return set()
    return {char for char in characters if font.get_char_index(ord(char))}


def _family_of(path: str) -> str:
    """Return the name of a font for Matplotlib, which learns of it first if need be."""
    from matplotlib.font_manager import fontManager

    if path not in {font.fname for font in fontManager.ttflist}:
        fontManager.addfont(path)
    # One file may have fonts for several languages, of which the first is often Japanese.
    names = [font.name for font in fontManager.ttflist if font.fname == path]
    return next((name for name in names if name.endswith(_CHINESE)), names[0])


def _warn_about(characters: Iterable[str]) -> None:
    # Matplotlib says it of each character, several times.
    warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
    logger.warning(
        f"No font on this machine has the characters {''.join(sorted(characters))}, which are "
        "boxes in the pictures; for Chinese, Japanese and Korean install the package "
        "fonts-noto-cjk (apt) or google-noto-sans-cjk-fonts (dnf)"
    )
