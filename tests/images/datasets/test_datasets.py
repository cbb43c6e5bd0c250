"""Metadata that datasets keep beside their images: imagefolder, WebDataset, COCO and YOLO, also damaged ones."""

from __future__ import annotations

import gc
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import webdataset
from pyarrow import parquet
from pycocotools.coco import COCO

from simile.core.errors import BadSetting, NoSuchPath
from simile.core.settings import Settings
from simile.images.datasets import json_lines, values
from simile.images.sources.archives import MAX_TEXT_BYTES
from simile.images.sources.sources import ImageSources
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.searcher import Searcher
from tests.support.commands import run_json
from tests.support.images import noise


def put(folder: Path, *names: str) -> None:
    """Write a different image under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(noise(hash_name(name)))


def hash_name(name: str) -> int:
    return sum(number * ord(character) for number, character in enumerate(name, 1))


def read(source: Path, labels: Path | None = None) -> tuple[dict[str, Mapping[str, str]], dict[str, str]]:
    """Walk a source; return metadata and failures by the path below it."""
    sources = ImageSources([source], with_metadata=True, labels=labels)
    found: dict[str, Mapping[str, str]] = {}
    for part in sources.iterate_parts():
        rows = part.metadata or [None] * len(part.files)
        found |= {file[0]: row for file, row in zip(part.files, rows, strict=True) if row is not None}
    failures = {failure.path: failure.reason for failure in sources.result.failures}

    def cut(path: str) -> str:
        return path.removeprefix(f"{source}").lstrip("/")

    return {cut(path): row for path, row in found.items()}, {cut(path): text for path, text in failures.items()}


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_coco(path: Path, images: Mapping[str, list[int]], **more: object) -> Path:
    """Write the classes of each image's objects."""
    names = list(images)
    numbered = enumerate((number, kind) for number, name in enumerate(names, 1) for kind in images[name])
    body = {
        "info": {"year": 2026},
        "images": [{"id": n, "file_name": name, "width": 32, "height": 32} for n, name in enumerate(names, 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": kind, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0}
            for n, (image, kind) in numbered
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    path.write_text(json.dumps({**body, **more}))
    return path


# Imagefolder


def write_image_folder(folder: Path, kind: str) -> None:
    put(folder, "1.png", "sub/2.png", "3.png")
    rows = [{"file_name": "1.png", "label": "cat", "size": 2}, {"file_name": "sub/2.png", "label": "dog", "size": 3}]
    rows += [{"file_name": "3.png", "label": "cat", "size": 4}]
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        lines = [",".join(map(str, row.values())) for row in rows]
        (folder / "metadata.csv").write_text("\n".join(["file_name,label,size", *lines]) + "\n")
    else:
        parquet.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # datasets leaves its CSV file open
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_imagefolder_says_the_same_to_simile_and_to_datasets(tmp_path: Path, kind: str) -> None:
    write_image_folder(tmp_path / "photos", kind)
    found, failures = read(tmp_path / "photos")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "photos"), cache_dir=str(tmp_path / "cache"))
    rows = loaded["train"].cast_column("image", datasets.Image(decode=False))
    expected = {
        str(Path(row["image"]["path"]).relative_to(tmp_path / "photos")): {
            "label": row["label"],
            "size": str(row["size"]),
        }
        for row in rows
    }
    gc.collect()
    assert (found, failures) == (expected, {})
    assert found["sub/2.png"] == {"label": "dog", "size": "3"}


def test_the_nearest_metadata_file_counts_and_files_beside_it_are_not_ignored(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "train/1.png", "train/deep/2.png", "val/3.png", "z.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "1.png", "split": "all"}\n{"file_name": "val/3.png", "split": "val"}\n'
        '{"file_name": "train/1.png", "split": "wrong"}\n{"file_name": "z.png", "split": "last"}\n'
    )
    (tmp_path / "train/metadata.csv").write_text("file_name,split\n1.png,train\ndeep/2.png,train\n")
    found, failures = read(tmp_path)
    assert {path: row["split"] for path, row in found.items()} == {
        "1.png": "all",
        "train/1.png": "train",
        "train/deep/2.png": "train",
        "val/3.png": "val",
        "z.png": "last",
    }
    sources = ImageSources([tmp_path], with_metadata=True)
    assert (failures, sum(len(part.files) for part in sources.iterate_parts())) == ({}, 5)
    assert sources.result.ignored_count == 0


def test_values_become_texts_and_nested_ones_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    row = {"file_name": "1.png", "n": 3.0, "x": 1.5, "ok": True, "no": None, "tags": ["a", 2], "objects": {"bbox": []}}
    (tmp_path / "metadata.jsonl").write_text("﻿" + json.dumps(row) + "\n\n", encoding="utf-8")
    assert read(tmp_path)[0] == {"1.png": {"n": "3", "x": "1.5", "ok": "true", "tags": "a, 2"}}


def test_lines_that_are_damaged_are_failures_and_the_others_count(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    long = '{"file_name": "1.png", "x": "' + "x" * json_lines.MAX_LINE_BYTES + '"}'
    lines = ["{", "[1]", "[" * 100_000, '{"x": 1}', long, '{"file_name": "1.png", "x": "\\ud800"}']
    lines += ['{"file_name": "1.png", "x": ' + "9" * 5000 + "}", '{"file_name": "1.png", "y": "good"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found, failures = read(tmp_path)
    assert found == {"1.png": {"y": "good"}}
    reasons = [failures[f"metadata.jsonl, line {number}"] for number in range(1, 8)]
    words = ("not JSON", "not a JSON object", "nested", "no path", "1,048,576 bytes", "not text", "not JSON")
    for reason, word in zip(reasons, words, strict=True):
        assert word in reason


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("metadata.csv", b"path_of_it,label\n1.png,cat\n", "no column"),
        ("metadata.csv", b"", "is empty"),
        ("metadata.parquet", b"PAR1 is not all", "can't be read as Parquet"),
    ],
)
def test_a_broken_metadata_file_is_a_failure_and_the_images_are_indexed(
    trained_home: Settings, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    put(tmp_path / "photos", "1.png")
    (tmp_path / "photos" / name).write_bytes(data)
    summary = index(trained_home, [tmp_path / "photos"], IndexRequest())
    (failure,) = summary.failures
    assert (summary.new, failure.path) == (1, str(tmp_path / "photos" / name))
    assert reason in failure.reason


def test_a_few_bytes_of_parquet_do_not_become_gigabytes(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["y" * 600_000]))
    table = pa.table({"file_name": ["1.png"] * 2000, "text": texts})
    parquet.write_table(table, tmp_path / "metadata.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "metadata.parquet").stat().st_size < 10_000
    found, failures = read(tmp_path)
    assert found == {} and "131,072 characters" in failures["metadata.parquet"]


def test_metadata_of_a_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image_folder(tmp_path, "csv")
    monkeypatch.setattr(values, "MAX_TOTAL_LENGTH", 600)
    found, failures = read(tmp_path)
    assert list(found) == ["1.png"]
    assert "Split it" in failures["metadata.csv"]


def test_a_second_run_stores_what_the_file_says_now(trained_home: Settings, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_image_folder(photos, "jsonl")
    assert index(trained_home, [photos], IndexRequest()).new == 3
    (photos / "metadata.jsonl").write_text('{"file_name": "1.png", "label": "fox"}\n')
    assert index(trained_home, [photos], IndexRequest()).unchanged == 3
    with Searcher(trained_home) as searcher:
        stored = searcher.catalogue.metadata.get_for_files([str(photos / "1.png"), str(photos / "3.png")])
    assert stored == {str(photos / "1.png"): {"label": "fox"}, str(photos / "3.png"): {"label": "cat", "size": "4"}}


# WebDataset


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
def test_files_of_the_same_sample_describe_its_image(tmp_path: Path, suffix: str) -> None:
    files = {
        "a/01.jpg": noise(1, "JPEG"),
        "a/01.json": b'{"width": 32, "license": "CC0", "boxes": [[1, 2]]}',
        "a/01.txt": "Zwei Hüte\n".encode(),
        "a/01.cls": b"7",
        "b/01.left.png": noise(2),
        "b/01.caption": b"left",
        "readme.txt": b"no image has this name",
    }
    archive = tmp_path / f"shard{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, data in files.items():
                zipped.writestr(name, data)
    else:
        write_tar(archive, files, "w:gz" if suffix == ".tar.gz" else "w")
    found, failures = read(archive)
    assert found == {
        "a/01.jpg": {"width": "32", "license": "CC0", "text": "Zwei Hüte", "class": "7"},
        "b/01.left.png": {"caption": "left"},
    }
    sources = ImageSources([archive], with_metadata=True)
    list(sources.iterate_parts())
    assert (failures, dict(sources.result.ignored_kinds)) == ({}, {"txt": 1})


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves the shard open
def test_a_shard_that_webdataset_wrote_is_read(trained_home: Settings, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "shard.tar")) as writer:
        for number in range(3):
            sample = {"jpg": noise(number, "JPEG"), "json": {"n": number}, "cls": number % 2, "txt": f"image {number}"}
            writer.write({"__key__": f"{number:04}", **sample})
    summary = index(trained_home, [tmp_path / "shard.tar"], IndexRequest())
    assert (summary.new, summary.ignored, summary.failures) == (3, 0, [])
    expected = {}
    for sample in webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False).decode("rgb8"):
        path = f"{tmp_path / 'shard.tar'}/{sample['__key__']}.jpg"
        expected[path] = {"n": str(sample["json"]["n"]), "class": str(sample["cls"]), "text": sample["txt"]}
    gc.collect()
    with Searcher(trained_home) as searcher:
        assert searcher.catalogue.metadata.get_for_files(expected) == expected


def test_damaged_files_of_a_sample_are_failures(tmp_path: Path) -> None:
    files = {"1.png": noise(1), "1.json": b"[" * 100_000, "1.txt": b"\xff", "1.cls": b"x" * (MAX_TEXT_BYTES + 1)}
    archive = write_tar(tmp_path / "shard.tar", {**files, "1.caption": b"good"})
    found, failures = read(archive)
    assert found == {"1.png": {"caption": "good"}}
    assert {name: reason.rpartition(": ")[2].split(" ")[0] for name, reason in failures.items()} == {
        "1.json": "not",
        "1.txt": "invalid",
        "1.cls": "the",
    }


# COCO and YOLO


def test_coco_gives_classes_and_numbers_of_objects(tmp_path: Path) -> None:
    put(tmp_path / "photos", "1.png", "val/2.png", "3.png", "4.png")
    file = write_coco(tmp_path / "instances.json", {"1.png": [7, 3, 7], "2.png": [3], "3.png": []})
    found, failures = read(tmp_path / "photos", labels=file)
    assert failures == {}
    assert found == {
        "1.png": {"class": "cat, dog", "objects": "3"},
        "val/2.png": {"class": "cat", "objects": "1"},
        "3.png": {"objects": "0"},
    }
    coco = COCO(str(file))
    for image in coco.loadImgs(coco.getImgIds()):
        names = {coco.cats[entry["category_id"]]["name"] for entry in coco.imgToAnns[image["id"]]}
        row = next(row for path, row in found.items() if Path(path).name == image["file_name"])
        assert row.get("class", "") == ", ".join(sorted(names))


def test_captions_of_coco_are_metadata(tmp_path: Path) -> None:
    put(tmp_path / "photos", "1.png")
    annotations = [{"id": 1, "image_id": 1, "caption": " A hat. "}, {"id": 2, "image_id": 1, "caption": "Red."}]
    file = write_coco(tmp_path / "captions.json", {"1.png": []}, annotations=annotations, categories=[])
    assert read(tmp_path / "photos", labels=file)[0] == {"1.png": {"caption": "A hat.\nRed."}}


def test_a_name_that_two_images_may_have_is_a_failure(tmp_path: Path) -> None:
    put(tmp_path / "photos", "a/1.png", "b/1.png")
    file = write_coco(tmp_path / "instances.json", {"1.png": [7]})
    found, failures = read(tmp_path / "photos", labels=file)
    assert (list(found), list(failures)) == (["a/1.png"], ["b/1.png"])


def test_annotations_of_other_images_are_a_failure(tmp_path: Path) -> None:
    put(tmp_path / "photos", "1.png")
    file = write_coco(tmp_path / "instances.json", {"other.png": [7]})
    _, failures = read(tmp_path / "photos", labels=file)
    assert "names none of the images" in next(iter(failures.values()))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"images": 1}', '{"x": ' + "[" * 100_000, '{"images": [{"id": 1, "file_name": "1.png"}]',
     '{"images": [], "annotations": [{"image_id": 1, "category_id": 9}], "categories": []}'],
)  # fmt: skip
def test_broken_annotations_are_refused_before_the_run(tmp_path: Path, text: str) -> None:
    put(tmp_path / "photos", "1.png")
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(BadSetting, match=r"bad\.json"):
        ImageSources([tmp_path / "photos"], with_metadata=True, labels=tmp_path / "bad.json")


@pytest.mark.parametrize("names", ["names: [cat, dog]", "names:\n  0: cat\n  1: dog"])
def test_yolo_gives_classes_from_label_files(tmp_path: Path, names: str) -> None:
    put(tmp_path, "images/train/1.png", "images/train/2.png", "images/val/3.png", "images/val/4.png")
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\n{names}\n")
    for name, text in {
        "train/1": "0 .5 .5 .1 .1\n1 .1 .1 .1 .1\n",
        "train/2": "",
        "val/3": "1 0 0 1 1",
        "val/4": "5 0 0 1 1",
    }.items():
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    found, failures = read(tmp_path / "images", labels=tmp_path / "data.yaml")
    assert found == {
        "train/1.png": {"class": "cat, dog", "objects": "2"},
        "train/2.png": {"objects": "0"},
        "val/3.png": {"class": "dog", "objects": "1"},
    }
    assert "which" in failures["val/4.png"]


@pytest.mark.parametrize("text", ["", "names: 3", "names: []", "{" * 3000, "a: &a [x]\nb: [*a, *missing]", "\x00"])
def test_a_broken_data_yaml_is_refused(tmp_path: Path, text: str) -> None:
    put(tmp_path / "photos", "1.png")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(BadSetting, match=r"data\.yaml"):
        ImageSources([tmp_path / "photos"], with_metadata=True, labels=tmp_path / "data.yaml")


def test_labels_are_an_option_of_index(trained_home: Settings, tmp_path: Path) -> None:
    put(tmp_path / "photos", "1.png")
    file = write_coco(tmp_path / "instances.json", {"1.png": [7]})
    run_json("index", tmp_path / "photos", "--labels", file, "--home", trained_home.home)
    with Searcher(trained_home) as searcher:
        assert searcher.catalogue.metadata.get_for_files([str(tmp_path / "photos/1.png")]) == {
            str(tmp_path / "photos/1.png"): {"class": "dog", "objects": "1"}
        }
    with pytest.raises(NoSuchPath):
        index(trained_home, [tmp_path / "photos"], IndexRequest(labels=tmp_path / "missing.json"))
    with pytest.raises(BadSetting, match="as a manifest"):
        index(trained_home, [tmp_path / "photos"], IndexRequest(labels=tmp_path / "photos/1.png"))
