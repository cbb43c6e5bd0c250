"""The samples of a WebDataset: files of an archive that have the image's name up to the first dot.

0001.jpg with 0001.json (its scalars), 0001.txt (as `text`), 0001.caption (as `caption`), 0001.cls (as `class`).
https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable

from simile.core.errors import BadSetting
from simile.images.datasets.values import TextBudget, parse_object, select_texts
from simile.images.sources.archives import ARCHIVE_ERRORS, ArchiveContents, read_contents, read_texts

NAME_BY_SUFFIX = {".txt": "text", ".text": "text", ".caption": "caption", ".cls": "class"}


def read_sample_metadata(archive: str, on_failure: Callable[[str, str], object]) -> dict[str, dict[str, str]]:
    """Return the metadata of the images of an archive, by the name of the member.

    `on_failure` gets the path of each file that can't be used, and the reason.
    """
    contents = read_contents(archive)
    images = _group_images(contents)
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    budget = TextBudget(archive)
    try:
        for name, data in read_texts(archive, lambda name: _get_key(name) in images):
            try:
                texts = _parse_text(name, data)
            except ValueError as error:
                on_failure(f"{archive}/{name}", f"the metadata can't be used: {error}")
                continue
            budget.spend(texts)
            found[_get_key(name)].update(texts)
    except (BadSetting, *ARCHIVE_ERRORS) as error:
        on_failure(archive, f"the metadata can't be used: {error}")
    return {image: found[key] for key, names in images.items() if key in found for image in names}


def find_sample_texts(contents: ArchiveContents) -> set[str]:
    """Return the names of the members that describe an image."""
    images = _group_images(contents) if contents.texts else {}
    return {name for name in contents.texts if _get_key(name) in images}


def _group_images(contents: ArchiveContents) -> dict[str, list[str]]:
    """Return the images of each sample."""
    images: defaultdict[str, list[str]] = defaultdict(list)
    for name in contents.members:
        images[_get_key(name)].append(name)
    return dict(images)


def _parse_text(name: str, data: bytes | None) -> dict[str, str]:
    """Return the metadata in one file; None is a file that is too large. Raises ValueError."""
    if data is None:
        raise ValueError("the file is too large")
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  # for every member
    if suffix == ".json":
        return parse_object(data)
    return select_texts({NAME_BY_SUFFIX[suffix]: data.decode("utf-8-sig").strip()})


def _get_key(name: str) -> str:
    """Return what the files of a sample have in common: the path up to the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"
