"""A contact sheet of searches with altered copies of one indexed photo: cropped, re-compressed, mirrored.

python -m benchmarks.search.copy_sheet --home DIR --photo FILE --output sheet.png
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from simile.core.settings import load_settings
from simile.images.decoding import decode_image
from simile.images.formats import Limits
from simile.search.contact_sheet import write_contact_sheet
from simile.search.searcher import Searcher

HITS = 6
LIMITS = Limits()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--photo", type=Path, required=True)
    options.add_argument("--output", type=Path, required=True)
    given = options.parse_args()
    with Searcher(load_settings(home=given.home)) as searcher:
        answers = []
        for name, data in altered(given.photo):
            answer = searcher.by_file(data, name=name, limit=HITS)
            rank = next((n for n, hit in enumerate(answer.hits, 1) if Path(hit.path) == given.photo.absolute()), None)
            print(f"{name}: the original is {f'hit {rank}' if rank else f'not among the first {HITS}'}")
            answers.append((answer, decode_image(data, name=name, limits=LIMITS).pixels))
        write_contact_sheet(searcher, answers, given.output)


def altered(photo: Path) -> Iterator[tuple[str, bytes]]:
    """Names and JPEG bytes of the copies."""
    image = Image.fromarray(decode_image(photo.read_bytes(), name=photo, limits=LIMITS).pixels)
    width, height = image.size
    yield (
        "cropped to 78 %",
        jpeg(image.crop((round(width * 0.06), round(height * 0.06), round(width * 0.94), round(height * 0.94)))),
    )
    yield "JPEG quality 8", jpeg(image, quality=8)
    yield "mirrored", jpeg(ImageOps.mirror(image))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
