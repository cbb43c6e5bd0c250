"""Write the images of a home as a dataset of another tool: COCO, FiftyOne or Label Studio. Images are not copied."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

from simile.core.atomic_write import write_output
from simile.core.errors import BadSetting
from simile.core.filters.parser import parse_number
from simile.core.records import FloatArray
from simile.store.backup.export_rows import ExportReader
from simile.store.catalogue.catalogue import Catalogue
from simile.store.index.index import Index
from simile.store.index.metric import make_index_vectors

LABEL_NAMES = ("class", "label")  # of metadata with the class, if none is named
CLASS_SEPARATOR = ", "  # between several classes of an image
VOTING_NEIGHBOURS = 10  # nearest images with a class that vote on the class of an image
# Names that FiftyOne's samples have already.
_FIFTYONE_FIELDS = {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "ground_truth", "embedding"}


class _ExportedImage(NamedTuple):
    """An image of the export."""

    image_id: int
    path: str
    width: int
    height: int
    size: int
    metadata: dict[str, str]
    mu: FloatArray
    label: str | None


def write_dataset(
    catalogue: Catalogue, table: ExportReader, output: Path, dataset_format: str, label: str | None
) -> None:
    """Write the images in one of DATASET_SUFFIXES; see `export_embeddings`.

    Raises BadSetting, and for label-studio EncoderMismatch if another encoder is active.
    """
    if label is not None and label not in table.numeric_by_name:
        names = ", ".join(table.numeric_by_name) or "none"
        raise BadSetting(f"label can't be {label!r}: no image has metadata of this name (there are: {names}).")
    label = label or next((name for name in LABEL_NAMES if name in table.numeric_by_name), None)
    if dataset_format == "fiftyone":
        _write_fiftyone(table, output, label)
    elif dataset_format == "coco":
        write_output(output, lambda path: _write_coco(table, path, label))
    else:
        with closing(Index(catalogue)) as index:
            votes = _LabelVotes(index, table, label)
            write_output(output, lambda path: _write_tasks(table, path, label, votes))


def _iterate_images(table: ExportReader, label: str | None) -> Iterator[_ExportedImage]:
    """Yield the images that have a file, by ascending id."""
    for rows in table.iterate_chunks():
        sizes = zip(rows.widths, rows.heights, rows.sizes, strict=True)
        columns = zip(rows.ids.tolist(), rows.paths, sizes, rows.metadata, rows.mu, strict=True)
        for image_id, paths, size, metadata, mu in columns:
            if paths:
                yield _ExportedImage(image_id, paths[0], *size, metadata, mu, metadata.get(label or ""))


def _write_list(file: IO[str], items: Iterable[Any]) -> None:
    """Write a JSON array, an item per line."""
    file.write("[")
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item, ensure_ascii=False))
    file.write("\n]")


# COCO


def _write_coco(table: ExportReader, path: Path, label: str | None) -> None:
    """Write images, and an annotation of the whole image for each of its classes."""
    labels = {text for image in _iterate_images(table, label) for text in _split_label(image.label)}
    ids = {name: number for number, name in enumerate(sorted(labels), 1)}
    annotation_ids = count(1)

    def describe(image: _ExportedImage) -> dict[str, Any]:
        return {
            "id": image.image_id,
            "file_name": image.path,
            "width": image.width,
            "height": image.height,
            "metadata": image.metadata,
        }

    def annotate(image: _ExportedImage) -> Iterator[dict[str, Any]]:
        for name in _split_label(image.label):
            box = [0, 0, image.width, image.height]
            shape = {"bbox": box, "area": image.width * image.height, "iscrowd": 0}
            yield {"id": next(annotation_ids), "image_id": image.image_id, "category_id": ids[name], **shape}

    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "exported by simile"}, "images": ')
        _write_list(file, map(describe, _iterate_images(table, label)))
        file.write(', "annotations": ')
        _write_list(file, (item for image in _iterate_images(table, label) for item in annotate(image)))
        file.write(', "categories": ')
        _write_list(file, ({"id": number, "name": name} for name, number in ids.items()))
        file.write("}\n")


def _split_label(label: str | None) -> list[str]:
    return label.split(CLASS_SEPARATOR) if label else []


# FiftyOne


def _write_fiftyone(table: ExportReader, folder: Path, label: str | None) -> None:
    """Write the files of a FiftyOneDataset without a `version`, as FiftyOne wrote them until 0.8 and still reads.

    The files of later versions hold the documents of FiftyOne's own database.
    """
    names = _name_fields(table.numeric_by_name)

    def write_samples(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            file.write('{"samples": ')
            _write_list(file, (_make_sample(image, names, table) for image in _iterate_images(table, label)))
            file.write("}\n")

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"{folder} can't be created: {error.strerror}. Name another folder.") from error
    info = {"exported_by": "simile", "encoder": table.encoder.fingerprint}
    metadata = {"name": folder.name, "media_type": "image", "info": info}
    write_output(folder / "samples.json", write_samples)
    write_output(folder / "metadata.json", lambda path: path.write_text(json.dumps(metadata) + "\n", encoding="utf-8"))


def _make_sample(image: _ExportedImage, names: dict[str, str], table: ExportReader) -> dict[str, Any]:
    numeric = table.numeric_by_name
    size = {"_cls": "ImageMetadata", "size_bytes": image.size, "width": image.width, "height": image.height}
    values = {names[name]: parse_number(text) if numeric[name] else text for name, text in image.metadata.items()}
    label = None if image.label is None else {"_cls": "Classification", "label": image.label}
    return {
        "filepath": image.path,
        "tags": [],
        "metadata": size,
        "ground_truth": label,
        "embedding": image.mu.tolist(),
        "image_id": image.image_id,
        **values,
    }


def _name_fields(names: Iterable[str]) -> dict[str, str]:
    """Return a name that FiftyOne accepts for each name of metadata."""
    fields: dict[str, str] = {}
    for name in names:
        field = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "value"
        if field in _FIFTYONE_FIELDS or field == "image_id" or field[0].isdigit():
            field = f"meta_{field}"
        taken = set(fields.values())
        fields[name] = next(
            candidate
            for number in count(1)
            if (candidate := field if number == 1 else f"{field}_{number}") not in taken
        )
    return fields


# Label Studio


class _LabelVotes:
    """Predicts the class of an image by its nearest neighbours that have one."""

    def __init__(self, index: Index, table: ExportReader, label: str | None) -> None:
        self.encoder = table.encoder
        images = _iterate_images(table, label) if label is not None else ()
        self._labels = {image.image_id: image.label for image in images if image.label is not None}
        self._snapshot = index.get_snapshot(table.encoder.fingerprint) if self._labels else None

    def predict(self, image: _ExportedImage) -> tuple[str, float] | None:
        """Return the class and its share of the votes; None without labelled neighbours."""
        if self._snapshot is None:
            return None
        vector = make_index_vectors(image.mu[None], self.encoder.index_dims, self.encoder.metric)
        # Unlabelled images among the neighbours have no vote.
        ((ids, _),) = self._snapshot.search(vector, 4 * VOTING_NEIGHBOURS + 1)
        labels = [self._labels[other] for other in ids.tolist() if other != image.image_id and other in self._labels]
        votes = Counter(labels[:VOTING_NEIGHBOURS])
        if not votes:
            return None
        ((best, number),) = votes.most_common(1)
        return best, number / votes.total()


def _write_tasks(table: ExportReader, path: Path, label: str | None, votes: _LabelVotes) -> None:
    """Write a task for each image; the class that its neighbours suggest is a prediction."""
    with path.open("w", encoding="utf-8") as file:
        _write_list(file, (_make_task(image, votes) for image in _iterate_images(table, label)))
        file.write("\n")


def _make_task(image: _ExportedImage, votes: _LabelVotes) -> dict[str, Any]:
    url = f"/data/local-files/?d={quote(image.path.lstrip('/'))}"
    task: dict[str, Any] = {"data": {**image.metadata, "image": url, "path": image.path, "image_id": image.image_id}}
    if prediction := votes.predict(image):
        name, score = prediction
        choice = {"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": [name]}}
        task["predictions"] = [{"model_version": f"simile {votes.encoder.fingerprint[:8]}", "score": score}]
        task["predictions"][0]["result"] = [choice]
    return task


# Suffixes of the file, by format; a folder has none.
DATASET_SUFFIXES: dict[str, tuple[str, ...]] = {"coco": (".json",), "fiftyone": (), "label-studio": (".json",)}
