"""Decoders for pixel data that Pillow decodes in loops of Python: QOI, plain or odd PPM, run-length encoded BMP.

A small file could keep such a loop busy for minutes. `register_fast_decoders` replaces the loops in Pillow, also for
the bitmaps inside an icon. The results are those of Pillow for every valid file.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import qoi
from numpy.typing import NDArray
from PIL import Image, ImageFile

_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")
_END_OF_BITMAP = 1
_MAX_BMP_ESCAPES = 500_000  # of a run-length encoded bitmap: some seconds


class _WholeFileDecoder(ImageFile.PyDecoder):
    """Decodes all pixel data in one call of a library."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:  # noqa: ARG002
        """Decode the rest of the file. Returns what Pillow expects of a decoder that is finished."""
        assert self.fd is not None
        self.set_as_raw(*self.read_pixels(self.fd))
        return -1, 0

    def read_pixels(self, file: Any) -> tuple[Any, ...]:
        """Return the arguments of `set_as_raw`: the bytes of the pixels, the raw mode and its arguments."""
        raise NotImplementedError

    @property
    def value_count(self) -> int:
        """The number of values in the image: pixels times channels."""
        return self.state.xsize * self.state.ysize * Image.getmodebands(self.mode)


class FastQoiDecoder(_WholeFileDecoder):
    """QOI, decoded by the package qoi."""

    def read_pixels(self, file: Any) -> tuple[Any, ...]:
        """Read the file again from its start, which the package expects."""
        file.seek(0)
        return (qoi.decode(file.read()).tobytes(),)


class FastPpmDecoder(_WholeFileDecoder):
    """Binary PPM and PGM with a maximum other than 255 and 65535."""

    def read_pixels(self, file: Any) -> tuple[Any, ...]:
        """Scale the values to the range of the mode."""
        dtype = np.dtype(np.uint8 if self.args[-1] < 256 else ">u2")
        values = np.frombuffer(file.read(self.value_count * dtype.itemsize), dtype, self.value_count)
        return _scale(values, self.args[-1], self.mode)


class FastPlainPpmDecoder(_WholeFileDecoder):
    """PBM, PGM and PPM with values written as text."""

    def read_pixels(self, file: Any) -> tuple[Any, ...]:
        """Parse the text; comments may be anywhere."""
        text = _COMMENT.sub(b" ", file.read())
        if self.mode == "1":  # spaces between the digits are optional
            digits = np.frombuffer(b"".join(text.split()), np.uint8, self.value_count)
            if not np.isin(digits, (ord("0"), ord("1"))).all():
                raise ValueError("invalid digit in a bitmap")
            return np.where(digits == ord("1"), 0, 255).astype(np.uint8).tobytes(), "1;8"
        values = np.fromstring(text, np.int64, sep=" ")[: self.value_count]
        if len(values) < self.value_count or values.min() < 0 or values.max() > self.args[-1]:
            raise ValueError("not enough values, or a value outside the range of the image")
        return _scale(values, self.args[-1], self.mode)


class FastBmpRleDecoder(_WholeFileDecoder):
    """Run-length encoded BMP: all runs between two escapes are decoded at once."""

    def read_pixels(self, file: Any) -> tuple[Any, ...]:
        """Decode pairs of bytes: (count, value) is a run, (0, code) an escape. Raises ValueError."""
        _, is_rle4, direction = self.args
        width, size = self.state.xsize, self.value_count
        data = file.read()
        coded = np.frombuffer(data, np.uint8)
        pairs = coded[: len(coded) // 2 * 2].reshape(-1, 2)
        zeros = np.flatnonzero(pairs[:, 0] == 0)  # escapes, and literal pixels that look like one
        pixels = np.zeros(size, np.uint8)
        position = pair = x = 0
        for _ in range(_MAX_BMP_ESCAPES):
            next_zero = np.searchsorted(zeros, pair)
            escape = int(zeros[next_zero]) if next_zero < len(zeros) else len(pairs)
            # The runs before the escape; what does not fit into the row is dropped.
            if escape > pair and x < width:
                run = _expand_runs(pairs[pair : min(escape, pair + width - x)], is_rle4)
                run = run[: min(width - x, size - position)]
                pixels[position : position + len(run)] = run
                position, x = position + len(run), x + len(run)
            pair = escape + 1
            code = data[2 * escape + 1] if escape < len(pairs) else _END_OF_BITMAP
            if position == size or code == _END_OF_BITMAP:
                return pixels[:position].tobytes(), "L" if self.mode in ("1", "L") else "P", (0, direction)
            if code == 0:  # end of the row
                position, x = -(-position // width) * width, 0
            elif code == 2:  # skip pixels and rows
                right, up = data[2 * pair : 2 * pair + 2] if pair < len(pairs) else (0, 0)
                position = min(size, position + right + up * width)
                x, pair = position % width, pair + 1
            else:  # literal pixels, padded to whole pairs
                byte_count = (code + 1) // 2 if is_rle4 else code
                literal = coded[2 * pair : 2 * pair + byte_count]
                literal = _split_nibbles(literal)[:code] if is_rle4 else literal
                literal = literal[: size - position]
                pixels[position : position + len(literal)] = literal
                position, x, pair = position + len(literal), x + code, pair + (byte_count + 1) // 2
        raise ValueError("too many escapes in a bitmap")


def _expand_runs(runs: NDArray[np.uint8], is_rle4: bool) -> NDArray[np.uint8]:
    """Return the pixels of (n, 2) runs; a run of 4-bit pixels alternates between two values."""
    counts = runs[:, 0].astype(np.intp)
    values = np.repeat(runs[:, 1], counts)
    if not is_rle4:
        return values
    is_odd = (np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)) % 2 == 1
    return np.where(is_odd, values & 15, values >> 4).astype(np.uint8)


def _split_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the upper and the lower four bits of each byte, in order."""
    return np.stack([values >> 4, values & 15], axis=1).ravel()


def _scale(values: NDArray[Any], maximum: int, mode: str) -> tuple[bytes, str]:
    """Scale values from 0..maximum to 0..255, or 0..65535 in mode I; return the pixels and their raw mode."""
    out_max, dtype = (65535, np.dtype("<i4")) if mode == "I" else (255, np.dtype(np.uint8))
    table = np.rint(np.arange(1 << 16) / maximum * out_max).clip(0, out_max).astype(dtype)
    return table[values].tobytes(), "I;32" if mode == "I" else mode


def register_fast_decoders() -> None:
    """Replace Pillow's decoders that are loops of Python. Pillow's plugins must be imported before."""
    for name, decoder in {
        "qoi": FastQoiDecoder,
        "ppm": FastPpmDecoder,
        "ppm_plain": FastPlainPpmDecoder,
        "bmp_rle": FastBmpRleDecoder,
    }.items():
        Image.register_decoder(name, decoder)
