"""Draw text and legends: captions that fit, in a font that has their characters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

TEXT_COLOUR, MUTED_COLOUR, PAPER_COLOUR = "#1f2328", "#6a717a", "#ffffff"
_LEGEND_SIZE, _LEGEND_LINE_HEIGHT, _MAX_LEGEND_NAME_WIDTH = 14, 26, 260  # font size and pixels

# Pillow's own font has the ASCII characters only. For other characters the first of these fonts that is installed and
# has them is used (Linux, macOS, Windows; the last ones for Chinese, Japanese and Korean).
_FALLBACK_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "Arial Unicode.ttf", "msyh.ttc"),
)


@lru_cache(maxsize=64)
def _load_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    """Return Pillow's font and the installed fallback fonts."""
    fonts = [ImageFont.load_default(size)]
    for name in _FALLBACK_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, round(size * 0.92)))  # they are wider than the default font
        except OSError:
            continue
    return tuple(font for font in fonts if isinstance(font, ImageFont.FreeTypeFont))


@lru_cache(maxsize=4096)
def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Return whether the font has this character, by comparing with its box for missing characters."""
    missing, mask = font.getmask("\uffff"), font.getmask(character)
    return character.isspace() or mask.size != missing.size or bytes(mask) != bytes(missing)


def choose_font(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return one line of text and the font to draw it with; characters that no font has become "?"."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    best = max(_load_fonts(size), key=lambda font: sum(_has_glyph(font, character) for character in printable))
    return "".join(character if _has_glyph(best, character) else "?" for character in printable), best


def truncate_text(text: str, size: int, width: int) -> str:
    """Return the text without its middle, at most `width` pixels wide: both ends of a file name are useful."""
    line, font = choose_font(text, size)
    if font.getlength(line) <= width:
        return line
    low, high = 0, len(line)
    while low < high:  # binary search for the most characters that fit
        length = (low + high + 1) // 2
        low, high = (length, high) if font.getlength(_remove_middle(line, length)) <= width else (low, length - 1)
    return _remove_middle(line, low)


def _remove_middle(line: str, length: int) -> str:
    """Return `length` characters of the line, with "…" in the middle."""
    return line[: (length + 1) // 2] + "…" + line[len(line) - length // 2 :]


def draw_text(
    canvas: Image.Image, text: str, position: tuple[int, int], size: int, colour: str, anchor: str = "la"
) -> None:
    """Draw one line of text; `anchor` as in Pillow (left ascender by default)."""
    line, font = choose_font(text, size)
    ImageDraw.Draw(canvas).text(position, line, colour, font, anchor=anchor)


def draw_legend(entries: Sequence[tuple[str, str]], width: int, margin: int) -> Image.Image:
    """Draw (name, colour) entries from left to right on white, on as many lines as they need.

    `width` of the image and `margin` at both sides are in pixels; it is one pixel high without entries.
    """
    # Place the entries.
    labels = [truncate_text(name, _LEGEND_SIZE, _MAX_LEGEND_NAME_WIDTH) for name, _ in entries]
    positions, left, top = [], margin, 0
    for label in labels:
        line, font = choose_font(label, _LEGEND_SIZE)
        entry_width = 42 + round(font.getlength(line))
        if left > margin and left + entry_width > width - margin:
            left, top = margin, top + _LEGEND_LINE_HEIGHT
        positions.append((left, top))
        left += entry_width
    # Draw a dot and the name of each.
    legend = Image.new("RGB", (width, top + _LEGEND_LINE_HEIGHT if entries else 1), PAPER_COLOUR)
    for label, (_, colour), (x, y) in zip(labels, entries, positions, strict=True):
        ImageDraw.Draw(legend).circle((x + 6, y + 11), 6, colour)
        draw_text(legend, label, (x + 18, y + 16), _LEGEND_SIZE, TEXT_COLOUR, "ls")
    return legend
