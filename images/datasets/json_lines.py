"""JSON Lines: a JSON object in each line, as in the `metadata.jsonl` of Hugging Face's imagefolder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from simile.core.errors import BadSetting
from simile.images.datasets.values import parse_object

MAX_LINE_BYTES = 1 << 20


class JsonLine(NamedTuple):
    """A line of a file."""

    number: int  # from 1
    values: dict[str, str]
    problem: str = ""  # why the line can't be used; it then has no values


def read_json_lines(file: Path) -> Iterator[JsonLine]:
    """Yield every line that is not blank, in bounded memory. Raises BadSetting if the file can't be read."""
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                        pass
                    yield JsonLine(number, {}, f"the line has more than {MAX_LINE_BYTES:,} bytes")
                elif text := line.removeprefix(b"\xef\xbb\xbf").strip():
                    yield _parse_line(number, text)
    except OSError as error:
        raise BadSetting(f"{file} can't be read ({error.strerror}). Name a file of JSON lines.") from None


def _parse_line(number: int, text: bytes) -> JsonLine:
    try:
        return JsonLine(number, parse_object(text))
    except ValueError as error:
        return JsonLine(number, {}, str(error))
