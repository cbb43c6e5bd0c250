"""Files that a command writes beside its answer: checked before the work, there whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.durable import write_durably
from core.errors import BadSetting


def check_output(path: Path, suffixes: Sequence[str]) -> None:
    """Raises BadSetting for a file that can't be written; `suffixes` in lower case, none for any."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise BadSetting(f"{path} can't be written: name a file that ends in {', '.join(suffixes)}.")
    if path.is_dir():
        raise BadSetting(f"{path} can't be written: it is a folder. Name another file.")
    if not path.absolute().parent.is_dir():
        raise BadSetting(f"{path.absolute().parent} is no folder. Make it, or name another file.")


def write_output(path: Path, data: bytes) -> None:
    """Raises BadSetting where there is no space or no permission."""
    try:
        write_durably(path, lambda temporary: temporary.write_bytes(data))
    except OSError as error:
        reason = error.strerror or error
        raise BadSetting(f"{path} can't be written: {reason}. Make space, or name another file.") from error
