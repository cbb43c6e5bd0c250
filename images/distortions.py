"""Distorted copies of an image, as people make them: used by evaluation and by the dedup calibration.

A copy is made from the full-size image, with Pillow. Training augments small tensors instead: models/augmentation/.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from simile.images.drawn.generator import draw_image
from simile.images.drawn.textures import draw_texture
from simile.images.formats import Pixels

Colour = tuple[int, int, int]
Distortion = Callable[[Image.Image, np.random.Generator], Image.Image]

_SAMPLE_TEXTS = (
    "the best day ever", "SALE", "2024", "sold", "not mine", "look at this", "free", "@home", "# new", "size M",
)  # fmt: skip


def distort(pixels: Pixels, kind: str, random: np.random.Generator) -> Pixels:
    """Return a distorted copy (h, w, 3) of an image (H, W, 3) uint8; the same state of `random` gives the same copy.

    `kind` is one of DISTORTION_KINDS, HELD_OUT_DISTORTION_KINDS or HARD_DISTORTION_KINDS; ValueError otherwise.
    """
    if kind not in _DISTORTIONS:
        raise ValueError(f"there is no distortion {kind!r}. Use one of: {', '.join(_DISTORTIONS)}")
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    return np.asarray(_DISTORTIONS[kind](image, random).convert("RGB"))


def _recompress(image: Image.Image, _: np.random.Generator, *, format: str, quality: int) -> Image.Image:
    """Save in a lossy format and read again."""
    file = io.BytesIO()
    image.save(file, format, quality=quality)
    return Image.open(file, formats=(format,)).convert("RGB")


def _resize(image: Image.Image, _: np.random.Generator, *, scale_x: float, scale_y: float) -> Image.Image:
    """Scale the width and the height."""
    size = max(1, round(image.width * scale_x)), max(1, round(image.height * scale_y))
    return image.resize(size, Image.Resampling.BICUBIC)


def _crop(image: Image.Image, random: np.random.Generator, *, share_x: float, share_y: float) -> Image.Image:
    """Crop to these shares of the width and the height, at a random position."""
    width, height = max(1, round(image.width * share_x)), max(1, round(image.height * share_y))
    left = int(random.integers(image.width - width + 1))
    top = int(random.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _transpose(image: Image.Image, _: np.random.Generator, *, method: Image.Transpose) -> Image.Image:
    """Mirror, or rotate by a multiple of 90 degrees."""
    return image.transpose(method)


def _rotate(image: Image.Image, random: np.random.Generator, *, min_degrees: float, max_degrees: float) -> Image.Image:
    """Rotate to either side, with black or white corners; the frame stays or grows."""
    degrees = float(random.uniform(min_degrees, max_degrees)) * _random_sign(random)
    fill = (0, 0, 0) if random.random() < 0.5 else (255, 255, 255)
    return image.rotate(degrees, Image.Resampling.BICUBIC, expand=bool(random.random() < 0.5), fillcolor=fill)


def _to_greyscale(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """Remove the colours."""
    return image.convert("L").convert("RGB")


def _jitter_colours(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and white balance."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(random.uniform(0.6, 1.5)))
    gains = random.uniform(0.8, 1.2, 3)  # of red, green and blue
    return Image.fromarray(np.clip(np.asarray(image) * gains, 0, 255).astype(np.uint8))


def _blur_image(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Blur with a radius of 1 % to 2 % of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.01, 0.02)) * min(image.size)))


def _add_image_noise(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Add Gaussian noise with a standard deviation of 15 to 40 levels."""
    noise = random.normal(0, random.uniform(15, 40), (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _add_text(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Write one to three lines of words on the image, with outlined letters."""
    image = image.copy()
    size = max(6, round(float(random.uniform(0.07, 0.14)) * min(image.size)))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    ink, outline = ((255, 255, 255), (0, 0, 0)) if random.random() < 0.6 else (_random_colour(random), (255, 255, 255))
    x, y = float(random.uniform(0.02, 0.3)) * image.width, float(random.uniform(0.02, 0.7)) * image.height
    for line in range(int(random.integers(1, 4))):
        words = " ".join(random.choice(_SAMPLE_TEXTS, 4))
        position = (x, y + 1.2 * line * size)
        draw.text(position, words, fill=ink, font=font, stroke_width=max(1, size // 12), stroke_fill=outline)
    return image


def _add_border(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Add a border of one colour."""
    width = max(1, round(float(random.uniform(0.04, 0.12)) * min(image.size)))
    if random.random() < 0.4:
        return ImageOps.expand(image, width, _random_colour(random))
    return ImageOps.expand(image, width, (0, 0, 0) if random.random() < 0.5 else (255, 255, 255))


def _add_sticker(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Draw a smiley or a text label over 5 % to 10 % of the image."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    side = float(random.uniform(0.25, 0.36)) * min(image.size)
    x, y = (float(random.uniform(0, length - side)) for length in image.size)
    if random.random() < 0.5:
        draw.ellipse((x, y, x + side, y + side), _random_colour(random))
        for eye in (0.3, 0.6):
            draw.ellipse((x + eye * side, y + 0.3 * side, x + (eye + 0.1) * side, y + 0.45 * side), (30, 30, 30))
        draw.arc((x + 0.25 * side, y + 0.35 * side, x + 0.75 * side, y + 0.8 * side), 20, 160, (30, 30, 30), 3)
    else:
        draw.rounded_rectangle((x, y, x + side, y + side), side / 6, _random_colour(random))
        font = ImageFont.load_default(max(6, round(side / 4)))
        draw.text((x + side / 8, y + side / 3), str(random.choice(_SAMPLE_TEXTS)), _random_colour(random), font)
    return image


def _chain_distortions(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Apply four distortions, as when an image is shared several times: frame, colours, overlay, compression."""
    kinds = ("crop-90 crop-60 mirror turn-5", "grey colour blur noise", "text border sticker", "jpeg-30 resize-50")
    for choices in kinds:
        image = _DISTORTIONS[str(random.choice(choices.split()))](image, random)
    return image


def _warp_perspective(image: Image.Image, random: np.random.Generator, *, max_share: float) -> Image.Image:
    """Move each corner inwards by up to `max_share` of the side, as if seen at an angle."""
    width, height = image.size
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)], dtype=float)
    inwards = np.sign(np.array([width / 2, height / 2]) - corners)
    corners += inwards * random.uniform(0, max_share, (4, 2)) * image.size
    quad = tuple(corners.ravel().tolist())
    return image.transform(image.size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


def _pixelate(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Reduce to 24 to 47 pixels across and enlarge again."""
    across = int(random.integers(24, 48))
    small = image.resize((across, max(1, round(across * image.height / image.width))), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def _adjust_gamma(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Make the image lighter or darker with a gamma curve."""
    gamma = float(random.uniform(1.5, 2.2)) ** _random_sign(random)
    return image.point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)


def _posterise(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Keep two or three bits of each channel."""
    return ImageOps.posterize(image, int(random.integers(2, 4)))


def _letterbox_square(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Centre the image on a square of one colour, as for a profile image."""
    side = max(image.size)
    if image.width == image.height:
        return ImageOps.expand(image, (image.width // 6, 0), _random_colour(random))
    return ImageOps.pad(image, (side, side), color=_random_colour(random) if random.random() < 0.5 else (0, 0, 0))


def _add_watermark(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Write half-transparent words over the whole image."""
    size = max(6, min(image.size) // 14)
    layer = Image.new("RGBA", image.size)
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(size)
    words = " ".join(random.choice(_SAMPLE_TEXTS, 2))
    for row, y in enumerate(range(0, image.height, 3 * size)):
        for x in range(-size * (row % 2) * 3, image.width, round(font.getlength(words)) + 2 * size):
            draw.text((x, y), words, (255, 255, 255, 130), font)
    return Image.alpha_composite(image.convert("RGBA"), layer)


def _make_screenshot(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Add the bars of a phone screen above and below."""
    dark = random.random() < 0.5
    bar = round(float(random.uniform(0.06, 0.14)) * image.height)
    below = round(float(random.uniform(0.06, 0.2)) * image.height)
    screen = Image.new("RGB", (image.width, image.height + bar + below), (20, 20, 22) if dark else (245, 245, 247))
    screen.paste(image, (0, bar))
    draw, ink = ImageDraw.Draw(screen), (230, 230, 230) if dark else (40, 40, 40)
    draw.text((image.width * 0.05, bar * 0.2), "12:47   Photos", ink, ImageFont.load_default(max(6, bar * 0.5)))
    for share in (0.12, 0.37, 0.62, 0.87):  # four buttons
        x, y, radius = share * image.width, screen.height - below / 2, below * 0.2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), _random_colour(random))
    return screen


def _sharpen(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """Sharpen strongly."""
    return image.filter(ImageFilter.UnsharpMask(3, 250, 0))


def _add_vignette(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Darken the corners."""
    y, x = np.ogrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    light = 1 - float(random.uniform(0.35, 0.5)) * (x * x + y * y)
    return Image.fromarray((np.asarray(image) * np.clip(light, 0, 1)[:, :, None]).astype(np.uint8))


def _to_sepia(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """Replace the colours by shades of brown."""
    return ImageOps.colorize(image.convert("L"), (30, 15, 0), (255, 240, 200))


def _shear(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Shear horizontally."""
    slope = float(random.uniform(0.08, 0.2)) * _random_sign(random)
    shape = (1, slope, -slope * image.height / 2, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, shape, Image.Resampling.BICUBIC)


def _crop_aspect(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Change the aspect: crop one side to between half and three quarters."""
    share = float(random.uniform(0.5, 0.75))
    across, down = (share, 1.0) if random.random() < 0.5 else (1.0, share)
    return _crop(image, random, share_x=across, share_y=down)


def _lay_over_image(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Show the image half-transparent over another one of the same size."""
    return Image.blend(image, _draw_other_image(random).resize(image.size), float(random.uniform(0.25, 0.45)))


def _nest_in_image(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Place the image, at 45 % to 70 % of its sides, inside another one."""
    outer = _draw_other_image(random).resize(image.size)
    share = float(random.uniform(0.45, 0.7))
    inner = _resize(image, random, scale_x=share, scale_y=share)
    left = int(random.integers(outer.width - inner.width + 1))
    top = int(random.integers(outer.height - inner.height + 1))
    outer.paste(inner, (left, top))
    return outer


def _make_page_screenshot(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Place the image on a page with a headline and lines of text, as a browser shows it."""
    width, height = round(image.width * 1.5), round(image.height * 1.7)
    page = Image.new("RGB", (width, height), (255, 255, 255))
    draw, size = ImageDraw.Draw(page), max(8, height // 28)
    font, headline_font = ImageFont.load_default(size), ImageFont.load_default(1.6 * size)
    draw.rectangle((0, 0, width, 2 * size), _random_colour(random))
    left, top = width // 20, 5 * size
    draw.text((left, 2.5 * size), " ".join(random.choice(_SAMPLE_TEXTS, 3)), (20, 20, 20), headline_font)
    page.paste(image, (left, top))
    for y in range(top + image.height + size, height, round(1.5 * size)):
        draw.text((left, y), " ".join(random.choice(_SAMPLE_TEXTS, 7)), (60, 60, 60), font)
    for y in range(top, top + image.height, 2 * size):
        draw.text((left + image.width + size, y), str(random.choice(_SAMPLE_TEXTS)), (60, 60, 200), font)
    return page


def _swap_colours(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Exchange red, green and blue, or show the negative."""
    if random.random() < 0.3:
        return ImageOps.invert(image)
    order = [(1, 2, 0), (2, 0, 1), (2, 1, 0), (1, 0, 2), (0, 2, 1)][int(random.integers(5))]
    return Image.merge("RGB", [image.getchannel(channel) for channel in order])


def _combine_distortions(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Apply three different held-out distortions, then a compression."""
    kinds = ["perspective", "gamma", "watermark", "cut", "screenshot", "sepia", "shear", "flip"]
    for kind in random.choice(kinds, 3, replace=False):
        image = _DISTORTIONS[str(kind)](image, random).convert("RGB")
    return _recompress(image, random, format="JPEG", quality=35)


def _draw_other_image(random: np.random.Generator) -> Image.Image:
    textures = [draw_texture(random, 160) for _ in range(4)]
    return Image.fromarray(draw_image(random, 256, textures))


def _random_colour(random: np.random.Generator) -> Colour:
    """Return a random (red, green, blue)."""
    red, green, blue = (int(level) for level in random.integers(0, 256, 3))
    return red, green, blue


def _random_sign(random: np.random.Generator) -> int:
    """Return 1 or -1."""
    return 1 if random.random() < 0.5 else -1


_STANDARD_DISTORTIONS: dict[str, Distortion] = {
    "jpeg-30": partial(_recompress, format="JPEG", quality=30),
    "jpeg-8": partial(_recompress, format="JPEG", quality=8),
    "resize-50": partial(_resize, scale_x=0.5, scale_y=0.5),
    "resize-15": partial(_resize, scale_x=0.15, scale_y=0.15),
    "crop-90": partial(_crop, share_x=0.9**0.5, share_y=0.9**0.5),  # of the area
    "crop-60": partial(_crop, share_x=0.6**0.5, share_y=0.6**0.5),
    "crop-30": partial(_crop, share_x=0.3**0.5, share_y=0.3**0.5),
    "mirror": partial(_transpose, method=Image.Transpose.FLIP_LEFT_RIGHT),
    "turn-5": partial(_rotate, min_degrees=5, max_degrees=5),
    "turn-90": partial(_transpose, method=Image.Transpose.ROTATE_90),
    "grey": _to_greyscale,
    "colour": _jitter_colours,
    "blur": _blur_image,
    "noise": _add_image_noise,
    "text": _add_text,
    "border": _add_border,
    "sticker": _add_sticker,
    "chain": _chain_distortions,
}
_HELD_OUT_DISTORTIONS: dict[str, Distortion] = {
    "perspective": partial(_warp_perspective, max_share=0.14),
    "pixelate": _pixelate,
    "gamma": _adjust_gamma,
    "posterise": _posterise,
    "letterbox": _letterbox_square,
    "flip": partial(_transpose, method=Image.Transpose.FLIP_TOP_BOTTOM),
    "watermark": _add_watermark,
    "aspect": partial(_resize, scale_x=1.0, scale_y=0.6),
    "cut": _crop_aspect,
    "screenshot": _make_screenshot,
    "sharpen": _sharpen,
    "vignette": _add_vignette,
    "sepia": _to_sepia,
    "shear": _shear,
    "webp-5": partial(_recompress, format="WEBP", quality=5),
    "turn-20": partial(_rotate, min_degrees=10, max_degrees=20),
    "turn-180": partial(_transpose, method=Image.Transpose.ROTATE_180),
    "turn-270": partial(_transpose, method=Image.Transpose.ROTATE_270),
}
_HARD_DISTORTIONS: dict[str, Distortion] = {
    "overlay": _lay_over_image,
    "nested": _nest_in_image,
    "steep": partial(_warp_perspective, max_share=0.3),
    "page": _make_page_screenshot,
    "swap": _swap_colours,
    "several": _combine_distortions,
}
_DISTORTIONS = _STANDARD_DISTORTIONS | _HELD_OUT_DISTORTIONS | _HARD_DISTORTIONS

DISTORTION_KINDS: tuple[str, ...] = tuple(_STANDARD_DISTORTIONS)  # used by evaluation by default
# Not in the standard list: they check that an encoder has learned more than that list.
HELD_OUT_DISTORTION_KINDS: tuple[str, ...] = tuple(_HELD_OUT_DISTORTIONS)
HARD_DISTORTION_KINDS: tuple[str, ...] = tuple(_HARD_DISTORTIONS)  # beyond both lists: no setting was chosen by them
