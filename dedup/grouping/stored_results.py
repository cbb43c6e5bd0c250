"""What a run found out about files, stored in the home as JSON: a later run or command does not repeat the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simile.core.atomic_write import write_atomically
from simile.store.home import Home, translate_write_errors


def load_results(home: Home, name: str) -> Any:
    """Return the stored JSON value with this name; None if there is none, or if it is damaged."""
    try:
        return json.loads(_get_path(home, name).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def store_results(home: Home, name: str, value: Any) -> None:
    """Replace the stored JSON value. Raises HomeNotWritable."""
    path, text = _get_path(home, name), json.dumps(value)
    with translate_write_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _get_path(home: Home, name: str) -> Path:
    return home.root / "dedup" / f"{name}.json"
