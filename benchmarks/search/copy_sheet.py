"""A contact sheet of searches with distorted copies of one indexed photo: cropped, compressed, mirrored.

python -m benchmarks.search.copy_sheet --home DIR --photo FILE --output sheet.png
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks.common.runs import make_parser
from simile.core.settings import load_settings
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.search.contact_sheet import write_contact_sheet
from simile.search.searcher import Searcher

HITS = 6
LIMITS = Limits()


def main() -> None:
    """Parse the options and run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with Searcher(load_settings(home=options.home)) as searcher:
        results = []
        for name, data in make_copies(options.photo):
            result = searcher.by_file(data, name=name, limit=HITS)
            rank = next((n for n, hit in enumerate(result.hits, 1) if Path(hit.path) == options.photo.absolute()), None)
            print(f"{name}: the original is {f'hit {rank}' if rank else f'not among the first {HITS}'}")
            results.append((result, decode_image(data, name=name, limits=LIMITS).pixels))
        write_contact_sheet(searcher, results, options.output)


def make_copies(photo: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and JPEG bytes of the copies."""
    image = Image.fromarray(decode_image(photo.read_bytes(), name=photo, limits=LIMITS).pixels)
    width, height = image.size
    yield (
        "cropped to 78 %",
        encode_as_jpeg(
            image.crop((round(width * 0.06), round(height * 0.06), round(width * 0.94), round(height * 0.94)))
        ),
    )
    yield "JPEG quality 8", encode_as_jpeg(image, quality=8)
    yield "mirrored", encode_as_jpeg(ImageOps.mirror(image))


def encode_as_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """Encode as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
