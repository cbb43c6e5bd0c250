"""List the images in a folder of an S3 store, in the order of their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from simile.images.formats import IMAGE_SUFFIXES, has_image_signature
from simile.images.sources.buckets import SCHEME, open_file_system, to_bucket_path, translate_store_errors
from simile.images.sources.folders import FileFactsTuple, WalkResult, merge_in_order
from simile.images.sources.paths import PathPatterns

HEAD_READERS = 16  # first bytes of objects without a suffix that are read at a time


def iterate_bucket_files(url: str, patterns: PathPatterns, result: WalkResult) -> Iterator[list[FileFactsTuple]]:
    """Yield the images below a folder in lists; the lists are in the order of paths.

    Hidden objects are skipped, and objects of other kinds added to the ignored ones of `result`. An object with a
    suffix is judged by it, because opening each would take a request; of one without a suffix the first bytes are read.
    The memory is that of the names below one folder of the root. Raises ObjectsUnavailable.
    """
    infos = _list_folder(url, recursive=False)
    root = len(url) + 1
    files = _select_images([info for info in infos if info.is_file], root, patterns, result)
    folders = [info.base_name for info in infos if not info.is_file]
    for entry in merge_in_order(f"{url}/", files, folders):
        if isinstance(entry, list):
            yield entry
        elif patterns.allows_folder(entry[root:]) and entry[root] != ".":
            below = _list_folder(entry, recursive=True)
            yield _select_images([info for info in below if info.is_file], root, patterns, result)


def _list_folder(url: str, *, recursive: bool) -> list[Any]:
    from pyarrow import fs  # noqa: PLC0415  # see open_file_system

    with translate_store_errors(url):
        selector = fs.FileSelector(to_bucket_path(url), allow_not_found=True, recursive=recursive)
        infos: list[Any] = open_file_system().get_file_info(selector)
    return infos


def _select_images(infos: Sequence[Any], root: int, patterns: PathPatterns, result: WalkResult) -> list[FileFactsTuple]:
    """Return the images among objects; their paths below the source begin at `root`."""
    selected: list[FileFactsTuple] = []
    unclear: list[FileFactsTuple] = []  # without a suffix
    for info in infos:
        path = SCHEME + info.path
        name = path[root:]
        if name.startswith(".") or "/." in name or (patterns and not _is_allowed(name, patterns)):
            continue
        file = (path, info.size, info.mtime_ns, 0)
        if not info.extension:
            unclear.append(file)
        elif f".{info.extension.lower()}" in IMAGE_SUFFIXES:
            selected.append(file)
        else:
            result.add_ignored(path)
    if unclear:
        with ThreadPoolExecutor(HEAD_READERS, thread_name_prefix="read-object") as pool:
            for file, head in zip(unclear, pool.map(_read_head, [path for path, *_ in unclear]), strict=True):
                if has_image_signature(head):
                    selected.append(file)
                else:
                    result.add_ignored(file[0])
    return result.leave_out_raw_partners(selected)


def _is_allowed(name: str, patterns: PathPatterns) -> bool:
    """Return whether the patterns select an object, and enter the folders that hold it."""
    parts = name.split("/")
    folders = ("/".join(parts[:end]) for end in range(1, len(parts)))
    return patterns.allows_file(name) and all(map(patterns.allows_folder, folders))


def _read_head(url: str) -> bytes:
    """Return the first 32 bytes of an object; none of one that was removed meanwhile."""
    try:
        with translate_store_errors(url), open_file_system().open_input_file(to_bucket_path(url)) as stream:
            return bytes(stream.read_at(32, 0))
    except FileNotFoundError:
        return b""
