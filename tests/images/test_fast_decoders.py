"""The decoders that replace Pillow's loops return the same pixels, and damaged data the same refusal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, PpmImagePlugin, QoiImagePlugin

from simile.images import decoding  # noqa: F401  # registers the decoders
from simile.images.codecs.fast_decoders import register_fast_decoders
from tests.attacks.hostile_files import make_bitmap

PILLOW_DECODERS = {
    "qoi": QoiImagePlugin.QoiDecoder,
    "ppm": PpmImagePlugin.PpmDecoder,
    "ppm_plain": PpmImagePlugin.PpmPlainDecoder,
    "bmp_rle": BmpImagePlugin.BmpRleDecoder,
}


def decode(data: bytes) -> tuple[str, NDArray[np.uint8]] | None:
    """Return mode and pixels; None if the data are damaged."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.mode, np.asarray(image)
    except (ValueError, OSError, RuntimeError, IndexError):
        return None


def assert_same_as_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch, *, valid: bool = True) -> None:
    fast = decode(data)
    with monkeypatch.context() as patch:
        for name, decoder in PILLOW_DECODERS.items():
            patch.setitem(Image.DECODERS, name, decoder)
        slow = decode(data)
    assert (fast is None) == (slow is None) and not (valid and fast is None)
    if fast is not None and slow is not None:
        assert fast[0] == slow[0] and np.array_equal(fast[1], slow[1])


def encode_rows(rows: NDArray[np.int64], is_rle4: bool, rng: np.random.Generator) -> bytes:
    """Encode rows as runs and literal pixels, chosen at random."""
    coded = b""
    for row in rows:
        x = 0
        while x < len(row):
            if rng.random() < 0.5 and len(row) - x >= 3:
                count = int(rng.integers(3, min(255, len(row) - x) + 1))
                literal = bytes(row[x : x + count].tolist())
                if is_rle4:
                    even = literal + bytes(count % 2)
                    literal = bytes(even[index] << 4 | even[index + 1] for index in range(0, len(even), 2))
                coded += bytes((0, count)) + literal + bytes(len(literal) % 2)
            else:
                count, value = 1, int(row[x])
                while x + count < len(row) and count < 255 and row[x + count] == value:
                    count += 1
                coded += bytes((count, value << 4 | value if is_rle4 else value))
            x += count
        coded += b"\0\0"
    return coded + b"\0\1"


@pytest.mark.parametrize("is_rle4", [False, True])
def test_run_length_encoded_bitmaps(is_rle4: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bits, compression = (4, 2) if is_rle4 else (8, 1)
    for _ in range(60):
        side = int(rng.integers(1, 40))
        rows = rng.integers(0, 1 << bits, (side, side)) // int(rng.integers(1, 9))
        data = make_bitmap(bits, compression, encode_rows(rows, is_rle4, rng), side)
        assert_same_as_pillow(data, monkeypatch)
    for _ in range(600):  # random commands, also with steps and rows that are too long
        commands = rng.choice([0, 0, 0, 1, 2, 3, 4, 5, 17, 200], int(rng.integers(2, 80)))
        data = make_bitmap(bits, compression, bytes(commands.tolist()), int(rng.integers(1, 12)))
        assert_same_as_pillow(data, monkeypatch, valid=False)


@pytest.mark.parametrize("magic", [b"P2", b"P3", b"P5", b"P6"])
@pytest.mark.parametrize("maximum", [1, 7, 254, 255, 256, 1000, 65534])
def test_ppm_of_every_maximum(magic: bytes, maximum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, maximum + 1, (9, 13, 3 if magic in (b"P3", b"P6") else 1))
    if magic in (b"P5", b"P6"):
        body = values.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    else:
        body = b" ".join(b"%d" % value for value in values.ravel()) + b"\n# the end"
    assert_same_as_pillow(magic + b" # comment\n13 9\n%d\n" % maximum + body, monkeypatch)


@pytest.mark.parametrize(
    "data",
    [b"P1\n2 2\n0 1 1 0", b"P1\n2 2\n01#10\n10", b"P2 2 1 255 # c\n3 # 1 2\n4", b"P3 1 1 65535\n1 2 60000"],
)
def test_values_as_text_with_comments(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_as_pillow(data, monkeypatch)


@pytest.mark.parametrize(
    "data",
    [
        b"P2 3 3 255\n1 2 3 4",
        b"P2 2 2 255\n1 2 x 4",
        b"P2 2 2 100\n1 2 300 4",
        b"P2 2 2 255\n1 2 -3 4",
        b"P2 2 2 255\n1.5 2 3 4",
        b"P1 2 2\n01",
        b"P1 2 2\n0172",
        b"P6 2 2 254\nabc",
        b"qoif\0\0\0\4\0\0\0\4\3\0\xfe",
    ],
)
def test_damaged_data_are_refused_by_both(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_as_pillow(data, monkeypatch, valid=False)
    assert decode(data) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_qoi(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, len(mode)), np.uint8)
    values[5:10] = 7
    file = io.BytesIO()
    Image.fromarray(values).save(file, "QOI")
    assert_same_as_pillow(file.getvalue(), monkeypatch)


def test_all_loops_of_python_are_replaced() -> None:
    register_fast_decoders()
    modules = {decoder.__module__ for name, decoder in Image.DECODERS.items() if name in PILLOW_DECODERS}
    assert modules == {"simile.images.codecs.fast_decoders"}
