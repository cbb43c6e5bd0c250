"""What uploads cost at most: hostile and large files of every format, decoded as the service decodes them.

    python -m benchmarks.service.upload_cost [--only NAME]

Each file is made by this script and decoded in a worker process with the default limits of the service. The exit code
is 1 if a file took more CPU time or memory than SIMILE_UPLOAD_CPU_SECONDS and SIMILE_UPLOAD_MEMORY allow.
"""

from __future__ import annotations

import io
import struct
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial

import pillow_heif
from PIL import Image

from benchmarks.common.memory import PeakMemory, list_descendants, read_rss_and_pss
from benchmarks.common.runs import make_parser
from simile.core.errors import UnreadableImage
from simile.core.settings import load_settings
from simile.images.formats import FORMATS, Limits
from simile.images.loading.fork_server import WorkCost
from simile.images.loading.loader import prepare_image
from simile.images.loading.sandbox import REQUEST_BUDGET, DecodeBudget, DecodeSandbox
from simile.images.transforms import Preprocessing

SIDE = 14_000  # close to the limit of 200 megapixels
MUCH = 49_000_000  # close to the limit of 50 MB
CPU_TOLERANCE = 0.2  # seconds: the system counts CPU time in ticks, and a killed worker has to end


def save(kind: str, side: int, mode: str = "RGB") -> bytes:
    """Return a square image of one colour."""
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    options = {"quality": 80} if kind in ("AVIF", "HEIF") else {}
    Image.new(mode, (side, side), 128).save(file, kind, **options)
    return file.getvalue()


def make_png(size: tuple[int, int], more: bytes = b"") -> bytes:
    """Return a PNG with additional chunks after its header."""
    rows = zlib.compress(b"".join(bytes(1 + 3 * size[0]) for _ in range(size[1])))
    head = make_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + make_chunk(b"IDAT", rows) + make_chunk(b"IEND", b"")


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_bitmap(bits: int, compression: int, body: bytes) -> bytes:
    """Return a run-length encoded bitmap."""
    palette = b"".join(bytes((value, value, value, 0)) for value in range(1 << bits))
    start = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, bits, compression, len(body), 0, 0, 1 << bits, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body


def insert(data: bytes, position: int, more: bytes) -> bytes:
    """Return the data with other bytes at a position."""
    return data[:position] + more + data[position:]


def make_segments(marker: bytes, body: bytes, size: int) -> bytes:
    """Return a JPEG with repeated segments, of about `size` bytes."""
    segment = marker + struct.pack(">H", len(body) + 2) + body
    return insert(save("JPEG", 64), 2, segment * (size // len(segment)))


FILES: dict[str, Callable[[], bytes]] = {
    **{f"{kind}, 25 megapixels": partial(save, kind, 5000) for kind in FORMATS if kind not in ("ICO", "QOI", "DIB")},
    "PNG, 196 megapixels": lambda: make_png((SIDE, SIDE)),
    "PNG, 196 megapixels of 16 bits": partial(save, "PNG", SIDE, "I;16"),
    "PNG, 25 megapixels with alpha": partial(save, "PNG", 5000, "RGBA"),
    "PNG of tiny chunks": lambda: make_png((64, 64), make_chunk(b"teXt", b"") * (MUCH // 12)),
    "PNG of profiles": lambda: make_png(
        (64, 64), make_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(60_000_000))) * 150
    ),
    "BMP of ends of lines": lambda: make_bitmap(8, 1, b"\x01\x07\0\0" * SIDE + b"\0\1"),
    "BMP of runs": lambda: make_bitmap(4, 2, (b"\xff\x12" * (SIDE // 255 + 1) + b"\0\0") * SIDE + b"\0\1"),
    "JPEG of Exif blocks": lambda: make_segments(b"\xff\xe1", b"Exif\0\0" + bytes(65_000), MUCH),
    "JPEG of comments": lambda: make_segments(b"\xff\xfe", b"", MUCH),
    "JPEG of fill bytes": lambda: insert(save("JPEG", 64), 2, b"\xff" * MUCH),
    "QOI of differences": lambda: b"qoif" + struct.pack(">IIBB", SIDE, SIDE, 3, 0) + b"\x6a" * MUCH,
    "PPM with an odd maximum": lambda: b"P6\n4000 4000\n254\n" + bytes(48_000_000),
    "PPM as text": lambda: b"P3\n2800 2800\n255\n" + b"7 " * (3 * 2800 * 2800),
    "GIF of empty frames": lambda: save("GIF", 64)[:-1] + b"!\xf9\4\0\0\0\0\0" * (MUCH // 8) + b";",
    "WebP, 100 megapixels": partial(save, "WEBP", 10_000),
}


def main() -> int:
    """Decode all files and print the table; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", help="a part of the names of the files")
    options = parser.parse_args()
    settings, failures = load_settings(), 0
    limits = Limits.from_settings(settings)
    cost = WorkCost(settings.decode_seconds, settings.upload_memory, settings.upload_cpu_seconds)
    decode = partial(prepare_image, preprocessing=Preprocessing(image_size=64, channels=3), limits=limits)
    sandbox = DecodeSandbox(1, cost, limits)
    sandbox.run(decode, save("PNG", 64), "warm")
    server = sandbox.start().pid
    idle = sum(read_rss_and_pss(pid)[1] for pid in list_descendants(server))
    print(f"{'file':<34}{'sent':>12}{'CPU':>8}{'wall':>8}{'memory':>9}  answer")
    for name, make in FILES.items():
        if options.only and options.only not in name:
            continue
        data, budget = make(), DecodeBudget(settings.upload_cpu_seconds)
        REQUEST_BUDGET.set(budget)
        memory, started = PeakMemory(server), time.monotonic()
        try:
            sandbox.run(decode, data, "file")
            answer = "decoded"
        except UnreadableImage as error:
            answer = error.reason
        seconds, peak = time.monotonic() - started, max(0.0, memory.stop()[1] - idle) * 1.048576
        used = settings.upload_cpu_seconds - budget.cpu_seconds
        is_over = used > cost.cpu_seconds + CPU_TOLERANCE or peak * 1e6 > cost.memory
        failures += is_over
        over = "OVER: " if is_over else ""
        print(f"{name:<34}{len(data):>12,}{used:>7.2f}s{seconds:>7.2f}s{peak:>6.0f} MB  {over}{answer}", flush=True)
    sandbox.close()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
