"""Text in pictures: captions that fit, in a font that has their letters."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

# Pillow's own font has the letters of ASCII only. File names have others: then the first of these that is installed
# and has them draws the line (Linux, macOS, Windows; the last ones for Chinese, Japanese and Korean).
_FALLBACK_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
)


@lru_cache(maxsize=64)
def _load_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    found = [ImageFont.load_default(size)]
    for name in _FALLBACK_FONTS:
        try:
            found.append(ImageFont.truetype(name, round(size * 0.92)))  # they run wider than the default
        except OSError:
            continue
    return tuple(font for font in found if isinstance(font, ImageFont.FreeTypeFont))


@lru_cache(maxsize=4096)
def _has_glyph(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether the font draws this letter, not its box for letters that are missing."""
    missing, mask = font.getmask("\uffff"), font.getmask(letter)
    return letter.isspace() or mask.size != missing.size or bytes(mask) != bytes(missing)


def choose_font(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """`text` (one line) and the font to draw it with; letters that no installed font has become "?"."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    fonts = _load_fonts(size)
    best = max(fonts, key=lambda font: sum(_has_glyph(font, letter) for letter in printable))
    return "".join(letter if _has_glyph(best, letter) else "?" for letter in printable), best


def truncate_text(text: str, size: int, width: int) -> str:
    """`text` cut in the middle to at most `width` pixels: the beginning and the end of a file name both tell."""
    line, font = choose_font(text, size)
    if font.getlength(line) <= width:
        return line
    few, many = 0, len(line)
    while few < many:  # the most letters that fit
        kept = (few + many + 1) // 2
        few, many = (kept, many) if font.getlength(_truncate_middle(line, kept)) <= width else (few, kept - 1)
    return _truncate_middle(line, few)


def _truncate_middle(line: str, length: int) -> str:
    return line[: (length + 1) // 2] + "…" + line[len(line) - length // 2 :]
