"""Draw documents, memes, bursts and the like, and variants of them that differ in what matters.

`SCENES` maps a kind to a function of two random generators: the first decides what all variants share (layout, text,
background), the second what only this variant has (an amount, a caption, the position of a subject). Scenes on a photo
use the photo that they get.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

Random = np.random.Generator
Scene = Callable[[Random, Random, list[Image.Image]], Image.Image]

INK, PAPER = (25, 25, 30), (252, 252, 250)
WORDS = (
    "paper", "cable", "delivery", "service", "hours", "chair", "lamp", "repair", "licence", "support", "desk", "frame",
    "glass", "paint", "wood", "metal", "garden", "travel", "hotel", "lunch", "printing", "domain", "storage", "battery",
    "panel", "filter", "switch", "carpet", "window", "cleaning", "transport",
)  # fmt: skip
NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hanna", "Ivan", "Jonas", "Klara", "Lukas", "Maria",
    "Nora", "Otto", "Paula", "Robert", "Sofia",
)  # fmt: skip
LINES = (
    "are you coming tonight", "the train is late again", "did you see the match", "I am at the station", "see you soon",
    "call me later", "that was a good idea", "see you at eight", "who has the keys", "it starts at nine", "well done",
    "bring some water", "the meeting was moved", "I will be there soon", "thank you for the photos", "as usual",
)  # fmt: skip
CAPTIONS = (
    "WHEN THE BUILD IS GREEN", "IT WORKS ON MY MACHINE", "MONDAY AGAIN", "ONE DOES NOT SIMPLY", "STILL NO COFFEE",
    "TELL ME MORE", "NOT SURE IF BUG", "SHIP IT ANYWAY", "NOBODY EXPECTS THIS", "FIVE MORE MINUTES",
)  # fmt: skip


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow."""
    return ImageFont.load_default(size)


def pick(random: Random, values: tuple[str, ...]) -> str:
    """Return one of several texts."""
    return str(values[int(random.integers(len(values)))])


def make_sentence(random: Random, count: int) -> str:
    """Return words with a space between them."""
    return " ".join(pick(random, WORDS) for _ in range(count))


def draw_invoice(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw a page with lines and amounts; the number and the total differ."""
    page = Image.new("RGB", (1240, 1754), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((90, 80), f"{pick(shared, WORDS).title()} & {pick(shared, NAMES)} Ltd", INK, font(46))
    draw.text((90, 240), f"Invoice {own.integers(1000, 9999)}", INK, font(36))
    draw.text((90, 300), f"Date 2024-{shared.integers(1, 13):02d}-{shared.integers(1, 29):02d}", INK, font(26))
    y = 420
    for _ in range(int(shared.integers(12, 26))):
        draw.text((90, y), make_sentence(shared, int(shared.integers(2, 6))), INK, font(26))
        draw.text((1010, y), f"{shared.integers(1, 900)}.{shared.integers(100):02d}", INK, font(26))
        y += 44
    draw.line((90, y + 10, 1150, y + 10), INK, 3)
    draw.text((90, y + 30), "Total", INK, font(32))
    draw.text((990, y + 30), f"{own.integers(100, 9999)}.{own.integers(100):02d}", INK, font(32))
    return page


def draw_receipt(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw a narrow receipt; the time and one price differ."""
    page = Image.new("RGB", (560, 1200), (244, 242, 238))
    draw = ImageDraw.Draw(page)
    draw.text((150, 40), f"{pick(shared, NAMES)}'s market", INK, font(34))
    changed, count = int(own.integers(3, 14)), int(shared.integers(14, 20))
    for row in range(count):
        price = f"{shared.integers(1, 60)}.{shared.integers(100):02d}"
        if row == changed:
            price = f"{own.integers(1, 60)}.{own.integers(100):02d}"
        draw.text((40, 130 + 44 * row), pick(shared, WORDS), INK, font(26))
        draw.text((430, 130 + 44 * row), price, INK, font(26))
    draw.text((40, 180 + 44 * count), f"{own.integers(8, 20):02d}:{own.integers(60):02d}", INK, font(26))
    return page


def draw_form(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw a form that different people filled in."""
    page = Image.new("RGB", (1000, 1400), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((70, 60), f"Application for {make_sentence(shared, 2)}", INK, font(38))
    for row, label in enumerate(("Name", "Street", "Town", "Born", "Phone", "Reason", "Place and date")):
        y = 170 + 120 * row
        draw.text((70, y), label, INK, font(24))
        draw.rectangle((300, y - 12, 930, y + 60), outline=INK, width=2)
        if row in (0, 2, 5):
            text = f"{pick(own, NAMES)} {pick(own, WORDS)} {own.integers(10, 99)}"
            draw.text((320, y), text, (20, 30, 130), font(34))
    for row in range(6):
        draw.text((70, 1040 + 40 * row), make_sentence(shared, 8), INK, font(22))
    return page


def draw_chat(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw a chat on a phone; the last messages differ."""
    page = Image.new("RGB", (720, 1440), (232, 238, 240))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 720, 110), (40, 110, 100))
    draw.text((40, 36), pick(shared, NAMES), (255, 255, 255), font(38))
    y = 150
    for row in range(11):
        source = own if row >= 9 else shared
        text = pick(source, LINES)
        width = 50 + round(font(30).getlength(text))
        left = 690 - width if source.random() < 0.5 else 30
        draw.rounded_rectangle((left, y, left + width, y + 76), 22, (255, 255, 255) if left == 30 else (210, 244, 200))
        draw.text((left + 24, y + 18), text, INK, font(30))
        y += 112
    return page


def draw_chart(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw bars with labels; some heights differ."""
    page = Image.new("RGB", (1100, 800), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    draw.text((90, 30), make_sentence(shared, 4), INK, font(34))
    colour = tuple(int(level) for level in shared.integers(40, 200, 3))
    count = int(shared.integers(6, 12))
    different = set(own.choice(count, 2, replace=False).tolist())
    step = 940 // count
    for row in range(count):
        height = int(shared.integers(80, 520))
        if row in different:
            height = int(own.integers(80, 520))
        left = 110 + step * row
        draw.rectangle((left, 700 - height, left + step * 2 // 3, 700), colour)
        draw.text((left, 712), str(2010 + row), INK, font(22))
        draw.text((left, 668 - height), str(height), INK, font(22))
    draw.line((90, 60, 90, 700, 1060, 700), INK, 3)
    return page


def draw_ticket(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw a ticket with a QR code; seat and code differ."""
    page = Image.new("RGB", (1200, 520), (250, 246, 236))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 1200, 90), tuple(int(level) for level in shared.integers(30, 180, 3)))
    draw.text((40, 22), make_sentence(shared, 3).upper(), (255, 255, 255), font(40))
    draw.text(
        (40, 150), f"{pick(shared, NAMES)} Hall, {pick(shared, WORDS)} street {shared.integers(1, 90)}", INK, font(28)
    )
    row, seat = int(own.integers(1, 40)), int(own.integers(1, 60))
    draw.text((40, 230), f"Row {row}   Seat {seat}", INK, font(44))
    draw.text((40, 320), f"{shared.integers(1, 28)} June 2025, 20:00", INK, font(30))
    page.paste(make_qr(f"{row}/{seat}/{own.integers(1 << 40)}", 320), (840, 140))
    return page


def draw_qr_poster(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw a label with a QR code in the middle; the code differs."""
    page = Image.new("RGB", (800, 1000), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    draw.text((80, 60), f"Scan to {make_sentence(shared, 2)}", INK, font(44))
    page.paste(make_qr(f"https://example.org/{own.integers(1 << 60)}", 560), (120, 180))
    draw.text((80, 860), make_sentence(shared, 5), INK, font(30))
    return page


def make_qr(text: str, side: int) -> Image.Image:
    """Return the QR code of a text."""
    code = np.asarray(cv2.QRCodeEncoder.create().encode(text))
    return Image.fromarray(code).convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def draw_sheet_music(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw staves with notes; some notes of one bar differ."""
    page = Image.new("RGB", (1200, 1600), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((380, 60), make_sentence(shared, 2).title(), INK, font(44))
    different = int(own.integers(0, 72))
    for stave in range(9):
        top = 200 + 150 * stave
        for line in range(5):
            draw.line((80, top + 16 * line, 1120, top + 16 * line), INK, 2)
        for note in range(16):
            pitch = int(shared.integers(0, 9))
            if 0 <= 16 * stave + note - different < 4:
                pitch = int(own.integers(0, 9))
            x, y = 130 + 60 * note, top + 64 - 8 * pitch
            draw.ellipse((x, y - 9, x + 22, y + 7), INK)
            draw.line((x + 21, y, x + 21, y - 58), INK, 3)
    return page


def draw_map(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw streets, and a pin with an address; the pin and the address differ."""
    page = Image.new("RGB", (1200, 900), (240, 238, 230))
    draw = ImageDraw.Draw(page)
    for _ in range(9):
        x, y = (int(value) for value in shared.integers(0, 900, 2))
        width, height = (int(value) for value in shared.integers(60, 300, 2))
        draw.rectangle((x, y, x + width, y + height), (206, 226, 196))
    for _ in range(22):
        ends = [tuple(int(value) for value in point) for point in shared.integers(-100, 1300, (2, 2))]
        draw.line([*ends], (255, 255, 255), int(shared.integers(6, 18)))
    for _ in range(26):
        x, y = (int(value) for value in shared.integers(20, 850, 2))
        draw.text((x, y), f"{pick(shared, WORDS).title()} Street", (90, 90, 90), font(18))
    x, y = int(own.integers(100, 1100)), int(own.integers(120, 800))
    draw.polygon((x, y, x - 22, y - 50, x + 22, y - 50), (210, 40, 40))
    draw.ellipse((x - 26, y - 80, x + 26, y - 28), (210, 40, 40))
    return page


def draw_timetable(shared: Random, own: Random, _photos: list[Image.Image]) -> Image.Image:
    """Draw a table of times; a few of them differ."""
    page = Image.new("RGB", (1000, 1300), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    draw.text((60, 40), f"Line {shared.integers(1, 99)} {pick(shared, WORDS)}", INK, font(40))
    different = set(own.choice(96, 3, replace=False).tolist())
    for cell in range(96):
        row, column = divmod(cell, 6)
        hour, minute = int(shared.integers(0, 24)), int(shared.integers(0, 60))
        if cell in different:
            hour, minute = int(own.integers(0, 24)), int(own.integers(0, 60))
        draw.text((70 + 150 * column, 150 + 68 * row), f"{hour:02d}:{minute:02d}", INK, font(28))
        draw.line((60, 196 + 68 * row, 940, 196 + 68 * row), (180, 180, 180), 2)
    return page


def draw_meme(shared: Random, own: Random, photos: list[Image.Image]) -> Image.Image:
    """Write a caption on a photo; the caption differs."""
    photo = ImageOps.fit(photos[int(shared.integers(len(photos)))], (900, 900))
    draw = ImageDraw.Draw(photo)
    for y, row in zip((30, 800), own.choice(len(CAPTIONS), 2, replace=False).tolist(), strict=True):
        text = CAPTIONS[row]
        width = font(62).getlength(text)
        draw.text(((900 - width) / 2, y), text, (255, 255, 255), font(62), stroke_width=5, stroke_fill=(0, 0, 0))
    return photo


def draw_price_tag(shared: Random, own: Random, photos: list[Image.Image]) -> Image.Image:
    """Put a label with a price on a photo of a product; the price differs."""
    photo = ImageOps.fit(photos[int(shared.integers(len(photos)))], (900, 1100))
    draw = ImageDraw.Draw(photo)
    draw.rounded_rectangle((520, 880, 860, 1040), 24, (250, 220, 40))
    draw.text((560, 915), f"{own.integers(10, 99)}.{own.integers(10, 99)} EUR", INK, font(56))
    return photo


def draw_burst(shared: Random, own: Random, photos: list[Image.Image]) -> Image.Image:
    """Put a subject before a background, with noise; the subject moves."""
    size = (1200, 900)
    scene = ImageOps.fit(photos[int(shared.integers(len(photos)))], size)
    subject = ImageOps.fit(photos[int(shared.integers(len(photos)))], (220, 260))
    mask = Image.new("L", subject.size)
    ImageDraw.Draw(mask).ellipse((6, 6, 214, 254), 255)
    place = int(own.integers(0, size[0] - 220)), int(own.integers(0, size[1] - 260))
    scene.paste(subject, place, mask.filter(ImageFilter.GaussianBlur(2)))
    noisy = np.asarray(scene, np.float32) + own.normal(0, 5, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def draw_slide(shared: Random, own: Random, photos: list[Image.Image]) -> Image.Image:
    """Draw a slide with a small photo; one line of its list differs."""
    page = Image.new("RGB", (1280, 720), (248, 248, 252))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 1280, 100), tuple(int(level) for level in shared.integers(20, 120, 3)))
    draw.text((50, 26), make_sentence(shared, 4).title(), (255, 255, 255), font(42))
    different = int(own.integers(0, 6))
    for row in range(6):
        words = make_sentence(shared, 5)
        if row == different:
            words = make_sentence(own, 5)
        draw.text((70, 160 + 80 * row), f"- {words}", INK, font(30))
    page.paste(ImageOps.fit(photos[int(shared.integers(len(photos)))], (360, 360)), (860, 220))
    return page


SCENES: dict[str, Scene] = {
    "invoice": draw_invoice,
    "receipt": draw_receipt,
    "form": draw_form,
    "chat": draw_chat,
    "chart": draw_chart,
    "ticket": draw_ticket,
    "qr": draw_qr_poster,
    "music": draw_sheet_music,
    "map": draw_map,
    "timetable": draw_timetable,
    "meme": draw_meme,
    "price": draw_price_tag,
    "burst": draw_burst,
    "slide": draw_slide,
}
