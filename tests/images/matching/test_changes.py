"""What one of two near copies has and the other lacks is found, and where; altering a whole image changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from simile.core.records import Failure
from simile.images.distortions import distort
from simile.images.formats import Limits
from simile.images.matching.changes import ImageChanges
from simile.images.matching.difference import FRAME_COLOUR, draw_difference
from simile.images.matching.tasks import compare_files, find_file_changes

SIZE = (640, 480)


def draw_photo(seed: int = 3) -> Image.Image:
    """Return an image with shapes and detail at all scales, in colour."""
    random, image = np.random.default_rng(seed), Image.new("RGB", SIZE, (120, 110, 90))
    draw = ImageDraw.Draw(image)
    for _ in range(140):
        x, y, r = random.integers(0, 640), random.integers(0, 480), random.integers(4, 60)
        draw.ellipse((x - r, y - r, x + r, y + r), tuple(int(level) for level in random.integers(30, 225, 3)))
    noise = cv2.resize(random.normal(0, 9, (240, 320, 3)).astype(np.float32), SIZE)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def draw_invoice(number: str, total: str) -> Image.Image:
    """Return a page with lines; two invoices differ in the number and the total."""
    page = Image.new("RGB", (620, 877), "white")
    draw = ImageDraw.Draw(page)
    draw.text((40, 40), f"Invoice {number}", (20, 20, 20), ImageFont.load_default(24))
    for row in range(20):
        draw.text(
            (40, 110 + 30 * row), f"{row + 1}   paper, cables and delivery", (20, 20, 20), ImageFont.load_default(17)
        )
        draw.text((480, 110 + 30 * row), f"{17 * (row + 3)}.00", (20, 20, 20), ImageFont.load_default(17))
    draw.text((40, 760), f"Total {total}", (20, 20, 20), ImageFont.load_default(20))
    return page


def write_caption(image: Image.Image, text: str) -> Image.Image:
    """Write outlined letters on a copy of an image."""
    image = image.copy()
    font = ImageFont.load_default(52)
    ImageDraw.Draw(image).text((30, 400), text, "white", font, stroke_width=4, stroke_fill="black")
    return image


def put_subject(image: Image.Image, x: int, y: int) -> Image.Image:
    """Put a face before an image."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    draw.ellipse((x, y, x + 110, y + 130), (235, 190, 150))
    for eye in (30, 70):
        draw.ellipse((x + eye, y + 45, x + eye + 12, y + 57), (30, 20, 20))
    return image


PHOTO = draw_photo()
INVOICE = draw_invoice("4711", "8.713,20")


def find(folder: Path, first: Image.Image, second: Image.Image, quality: int = 88) -> ImageChanges:
    """Save two images, and compare the files as a run does."""
    files = []
    for name, image in (("first", first), ("second", second)):
        path = folder / f"{name}-{len(list(folder.iterdir()))}.jpg"  # features are cached by path
        image.save(path, quality=quality)
        files.append((str(path), hashlib.sha256(path.read_bytes()).hexdigest()))
    result = compare_files((files[0][0], files[1][0]), Limits())
    assert not isinstance(result, Failure) and result.is_copy, "the benchmark of this test is a near copy"
    changes = find_file_changes((files[0], files[1]), Limits())
    assert isinstance(changes, ImageChanges)
    return changes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(INVOICE, draw_invoice("4713", "9.120,55"), id="invoices"),
        pytest.param(write_caption(PHOTO, "MONDAY AGAIN"), write_caption(PHOTO, "SHIP IT ANYWAY"), id="captions"),
        pytest.param(put_subject(PHOTO, 60, 60), put_subject(PHOTO, 420, 250), id="burst"),
    ],
)
def test_two_images_that_each_have_something_are_changed(
    tmp_path: Path, first: Image.Image, second: Image.Image
) -> None:
    changes = find(tmp_path, first, second)
    assert changes.is_mutual
    assert ImageChanges.from_json(changes.to_json()) == changes
    assert find(tmp_path, second, first).is_mutual
    # Also beside a smaller and a turned copy.
    assert find(tmp_path, first, second.resize((second.width * 3 // 4, second.height * 3 // 4))).is_mutual
    assert find(tmp_path, first, second.rotate(90, expand=True)).is_mutual


def test_one_digit_is_enough(tmp_path: Path) -> None:
    changes = find(tmp_path, INVOICE, draw_invoice("4771", "8.713,20"))
    left, top, right, bottom = changes.regions[0].first_box
    assert changes.is_mutual and 0.2 < left < right < 0.32 and 0.04 < top < bottom < 0.09


def test_the_regions_are_where_the_images_differ(tmp_path: Path) -> None:
    changes = find(
        tmp_path, put_subject(PHOTO, 60, 60), put_subject(PHOTO, 420, 250).transpose(Image.Transpose.ROTATE_180)
    )
    boxes = sorted(region.first_box for region in changes.regions[:2])
    expected = [(60 / 640, 60 / 480, 170 / 640, 190 / 480), (420 / 640, 250 / 480, 530 / 640, 380 / 480)]
    assert np.abs(np.array(boxes) - expected).max() < 0.02
    for first_box, second_box in changes.regions[:2]:  # the second image is upside down
        turned = 1 - second_box[2], 1 - second_box[3], 1 - second_box[0], 1 - second_box[1]
        assert np.abs(np.array(first_box) - turned).max() < 0.02
    drawn = draw_difference(np.asarray(PHOTO), np.asarray(PHOTO), changes.regions)
    framed = np.all(drawn == FRAME_COLOUR, axis=2)
    assert framed[55:62, 60:170].any() and framed[245:252, 420:530].any() and not framed[200:240].any()


@pytest.mark.parametrize(
    ("kind", "add"),
    [
        # No edge of the image lies along these letters: such an edge is close to the limits of the method.
        ("caption", lambda image: write_caption(image, "HELLO")),
        ("sticker", lambda image: Image.fromarray(distort(np.asarray(image), "sticker", np.random.default_rng(4)))),
        ("subject", lambda image: put_subject(image, 200, 100)),
    ],
)
def test_something_on_one_image_is_found_on_that_one(
    tmp_path: Path, kind: str, add: Callable[[Image.Image], Image.Image]
) -> None:
    changes = find(tmp_path, PHOTO, add(PHOTO))
    assert (changes.in_first, changes.in_second) == (False, True), kind
    changes = find(tmp_path, add(PHOTO), PHOTO)
    assert (changes.in_first, changes.in_second) == (True, False), kind
    assert changes.swap().in_second and changes.swap().regions[0].first_box == changes.regions[0].second_box


@pytest.mark.parametrize(
    "image", [PHOTO, INVOICE, write_caption(PHOTO, "MONDAY AGAIN")], ids=["photo", "page", "caption"]
)
@pytest.mark.parametrize(
    "kind",
    ["jpeg-30", "resize-50", "crop-90", "mirror", "turn-5", "turn-90", "grey", "noise", "border", "gamma", "none"],
)
def test_alterations_of_the_whole_image_are_no_changes(tmp_path: Path, image: Image.Image, kind: str) -> None:
    copy = image
    if kind != "none":
        copy = Image.fromarray(distort(np.asarray(image), kind, np.random.default_rng(2)))
    changes = find(tmp_path, image, copy)
    assert not changes.in_first and not changes.in_second and not changes.regions and not changes.is_mostly_different
    assert changes.is_warped == (kind == "turn-5")
    if image is not INVOICE:  # gamma leaves black and white as they are
        assert changes.has_other_tones == (kind == "gamma")
    margins = {"border": ("", "flat"), "crop-90": ("flat" if image is INVOICE else "content", "")}
    if kind != "turn-5":
        assert (changes.first_margin, changes.second_margin) == margins.get(kind, ("", ""))
        assert abs(changes.area_ratio - {"crop-90": 0.9, "border": changes.area_ratio}.get(kind, 1)) < 0.02


def test_a_blurred_copy_lacks_nothing(tmp_path: Path) -> None:
    assert not find(tmp_path, PHOTO, PHOTO.filter(ImageFilter.GaussianBlur(3))).regions


def test_a_file_that_was_replaced_is_a_failure(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    for path in paths:
        PHOTO.save(path)
    found = find_file_changes(((paths[0], "0" * 64), (paths[1], "0" * 64)), Limits())
    assert isinstance(found, Failure) and found.path == paths[0] and "changed" in found.reason
