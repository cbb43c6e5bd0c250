"""Annotations of objects as metadata: COCO's JSON, and the data.yaml with label files of YOLO.

Each image gets `class` (the names of its classes, separated by commas), `objects` (their number) and `caption`.
https://cocodataset.org/#format-data, https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

import mmap
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from simile.core.errors import BadSetting, NoSuchPath
from simile.images.datasets.values import MAX_VALUE_LENGTH, select_texts

ANNOTATION_SUFFIXES = (".json", ".yaml", ".yml")
MAX_YAML_BYTES = 1 << 18  # PyYAML reads 100 KB a second
MAX_LABEL_BYTES = 4 << 20  # of the label file of an image


class Annotations(Protocol):
    """The annotations of a dataset."""

    def find(self, path: str) -> Mapping[str, str] | None:
        """Return the metadata of an image; None if it has no annotations. Raises ValueError if they are damaged."""

    def describe_unused(self) -> str | None:
        """Return what to tell if no image has annotations, else None."""


def read_annotations(file: Path, sources: Sequence[str]) -> Annotations:
    """Read a file of annotations; `sources` are the folders of the images.

    Raises NoSuchPath, and BadSetting if it can't be used.
    """
    if not file.is_file():
        raise NoSuchPath(file)
    suffix = file.suffix.lower()
    if suffix not in ANNOTATION_SUFFIXES:
        raise BadSetting(
            f"labels can't be {file}. Name COCO's .json or YOLO's data.yaml; index a .csv, .parquet or .jsonl as a "
            "manifest: `simile index FILE`."
        )
    return _CocoAnnotations(file, sources) if suffix == ".json" else _YoloAnnotations(file)


def describe_objects(classes: Iterable[str], captions: Iterable[str] = ()) -> dict[str, str]:
    """Return the metadata for the class of each object of an image. Raises ValueError for a text that is too long."""
    listed = list(classes)
    return select_texts({"class": sorted(set(listed)), "objects": len(listed), "caption": "\n".join(captions)})


# COCO


class _CocoImage(msgspec.Struct, gc=False):
    id: int | str
    file_name: str


class _CocoAnnotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str | None = None
    caption: str | None = None


class _CocoCategory(msgspec.Struct, gc=False):
    id: int | str
    name: str


class _CocoFile(msgspec.Struct):
    """The part of a file that is read: boxes and masks, which are most of it, are skipped."""

    images: list[_CocoImage]
    annotations: list[_CocoAnnotation] = []
    categories: list[_CocoCategory] = []


class _CocoAnnotations:
    """The annotations of instances_*.json and captions_*.json. Boxes and masks are skipped while reading."""

    def __init__(self, file: Path, sources: Sequence[str]) -> None:
        self._file = file
        self._metadata, self._first = _read_coco(file), ""
        self._names: defaultdict[str, list[str]] = defaultdict(list)  # file_name by its last part
        for name in self._metadata:
            self._names[os.path.basename(name)].append(name)  # noqa: PTH119  # for every image
        folders = [str(file.absolute().parent), *sources]
        self._prefixes = [folder.rstrip(os.sep) + os.sep for folder in folders]
        self._path_by_name: dict[str, str] = {}  # of the names that were found

    def find(self, path: str) -> Mapping[str, str] | None:
        """Return the metadata of the image with this `file_name`: below a source, or at the end of its path."""
        self._first = self._first or path
        below = [path[len(prefix) :] for prefix in self._prefixes if path.startswith(prefix)]
        name = next((name for name in below if name in self._metadata), None)
        if name is None:
            names = self._names.get(os.path.basename(path), ())  # noqa: PTH119  # for every image
            name = max((name for name in names if path.endswith(os.sep + name)), key=len, default=None)
        if name is None:
            return None
        other = self._path_by_name.setdefault(name, path)
        if other != path:
            raise ValueError(f"{self._file} may mean this file or {other} by {name}; index the folder of its images")
        return self._metadata[name]

    def describe_unused(self) -> str | None:
        """Return what to tell if no image was found."""
        if self._path_by_name or not self._first:
            return None
        name = next(iter(self._metadata), "no image")
        return f"it names none of the images, but {name}; the first image is {self._first}"


def _read_coco(file: Path) -> dict[str, dict[str, str]]:
    """Return the metadata of each image by its `file_name`. Raises BadSetting."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            body = msgspec.json.decode(data, type=_CocoFile)
        names = {category.id: category.name for category in body.categories}
        classes: defaultdict[int | str, list[str]] = defaultdict(list)
        captions: defaultdict[int | str, list[str]] = defaultdict(list)
        for annotation in body.annotations:
            if annotation.category_id is not None:
                classes[annotation.image_id].append(names[annotation.category_id])
            if annotation.caption is not None:
                captions[annotation.image_id].append(annotation.caption.strip())
        # Every image of instances_*.json has a number of objects; captions_*.json has no categories.
        return {
            os.path.normpath(image.file_name): describe_objects(classes[image.id], captions[image.id])
            if names
            else select_texts({"caption": "\n".join(captions[image.id])})
            for image in body.images
        }
    except KeyError as error:
        raise BadSetting(f"{file} has an annotation of the category {error}, which it does not list.") from None
    except (msgspec.MsgspecError, ValueError, RecursionError, OSError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        raise BadSetting(f"{file} can't be read as COCO annotations ({reason}). Name an instances_*.json.") from None


# YOLO


class _YoloAnnotations:
    """The label files of a dataset, a line per object: labels/train/1.txt for images/train/1.jpg, or in its folder."""

    def __init__(self, file: Path) -> None:
        self._file, self._names = file, _read_class_names(file)
        self._found, self._first = False, ""

    def find(self, path: str) -> Mapping[str, str] | None:
        """Return the metadata from the label file of an image."""
        self._first = self._first or path
        label_file = Path(_get_label_path(path))
        try:
            if label_file.stat().st_size > MAX_LABEL_BYTES:
                raise ValueError(f"{label_file} is too large for labels")
            text = label_file.read_text("utf-8")
        except OSError:
            return None
        self._found = True
        return describe_objects(self._get_class(line, label_file) for line in text.splitlines() if line.strip())

    def _get_class(self, line: str, label_file: Path) -> str:
        number = line.split(maxsplit=1)[0]
        name = self._names.get(int(number)) if number.isdecimal() and len(number) < len("4294967296") else None
        if name is None:
            raise ValueError(f"{label_file} has the class {number[:20]!r}, which {self._file} does not list")
        return name

    def describe_unused(self) -> str | None:
        """Return what to tell if no label file was found."""
        if self._found or not self._first:
            return None
        return f"no image has a label file: for {self._first} it would be {_get_label_path(self._first)}"


def _get_label_path(path: str) -> str:
    """Return the label file of an image: its last folder `images` is `labels` there."""
    stem = os.path.splitext(path)[0]  # noqa: PTH122  # for every image
    before, separator, after = stem.rpartition(f"{os.sep}images{os.sep}")
    return (f"{before}{os.sep}labels{os.sep}{after}" if separator else stem) + ".txt"


def _read_class_names(file: Path) -> dict[int, str]:
    """Return the names of the classes by number: a list, or a mapping. Raises BadSetting."""
    import yaml  # only YOLO datasets need it  # noqa: PLC0415

    try:
        if file.stat().st_size > MAX_YAML_BYTES:
            raise ValueError("it is too large")
        body = yaml.safe_load(file.read_text("utf-8"))
        names = body.get("names") if isinstance(body, dict) else None
        pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else [])
        classes = {int(number): str(name) for number, name in pairs if isinstance(name, str | int | float)}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OSError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise BadSetting(f"{file} can't be read as YOLO's data.yaml ({reason}).") from None
    if not classes or max(map(len, classes.values())) > MAX_VALUE_LENGTH:
        raise BadSetting(f"{file} has no list `names` of classes. Name the data.yaml of a YOLO dataset.")
    return classes
