"""A font that has the letters of a text: class names come in every script.

Latin, Greek, Cyrillic, Arabic, Hebrew and many signs are in DejaVu Sans, which comes with matplotlib. For Chinese,
Japanese, Korean and others the fonts of the system are searched; where none has the letters, boxes are drawn instead.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

#: tried in this order before all other fonts of the system; parts of file names, lower case
_PREFERRED = (
    *("notosanscjk", "notosans", "sourcehansans", "wqy", "droidsansfallback", "ipag", "takao", "unifont"),
    *("msyh", "msgothic", "yugoth", "malgun", "simsun", "pingfang", "hiragino", "arialuni", "applegothic"),
)


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> Any:
    """The first font that has every letter of a text.

    Args:
        text: What will be written.
        size: Height in pixels.

    Returns:
        A Pillow font; for plain ASCII Pillow's own.
    """
    return ImageFont.load_default(size=size) if text.isascii() else ImageFont.truetype(font_file(text), size)


@lru_cache(maxsize=1024)
def font_file(text: str) -> str:
    """File of the first font that has every letter of a text, or of the one that lacks the fewest."""
    needed = frozenset(ord(letter) for letter in text if letter.isprintable() and not letter.isspace())
    best, missing = _dejavu(), len(needed - _letters(_dejavu()))
    if missing:
        for path in _system_fonts():
            lacking = len(needed - _letters(path))
            if lacking < missing:
                best, missing = path, lacking
            if not missing:
                break
    return best


@lru_cache(maxsize=1)
def _dejavu() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    from matplotlib import font_manager

    def rank(path: str) -> tuple[int, str]:
        name = Path(path).name.lower().replace("-", "").replace("_", "")
        return next((place for place, part in enumerate(_PREFERRED) if part in name), len(_PREFERRED)), path

    return tuple(sorted(font_manager.findSystemFonts(), key=rank))


@lru_cache(maxsize=256)
def _letters(path: str) -> frozenset[int]:
    """Code points a font file has; none if it cannot be used."""
    from matplotlib import ft2font

    try:
        ImageFont.truetype(path, 10)  # some system fonts are bitmaps, which Pillow cannot scale
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
