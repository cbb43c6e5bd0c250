"""Exports for other tools: COCO, FiftyOne's layout, Label Studio's tasks."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from pycocotools.coco import COCO

from simile.core.errors import BadSetting
from simile.core.settings import Settings
from simile.indexer.maintenance.export import export_embeddings
from simile.search.searcher import Searcher
from tests.support.commands import run_json, run_simile


@pytest.fixture
def labelled(home_with_digits: Settings) -> Settings:
    """A home with a class for all images but the last; the names of metadata are hard for other tools."""
    with Searcher(home_with_digits) as searcher:
        for record in searcher.catalogue.images.get_page(1000)[:-1]:
            number = "even" if record.id % 2 == 0 else "odd, all"
            metadata = {"class": number, "größe (cm)": str(record.id), "id": "=1+1"}
            searcher.catalogue.metadata.set_for_image(record.id, metadata)
    return home_with_digits


def test_coco_is_read_by_its_own_library(labelled: Settings, tmp_path: Path) -> None:
    done = export_embeddings(labelled, tmp_path / "all.json", dataset_format="coco")
    coco = COCO(str(tmp_path / "all.json"))
    assert len(coco.getImgIds()) == done["pictures"]
    assert sorted(category["name"] for category in coco.loadCats(coco.getCatIds())) == ["all", "even", "odd"]
    (image,) = coco.loadImgs([1])
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [coco.cats[entry["category_id"]]["name"] for entry in annotations] == ["odd", "all"]
    assert annotations[0]["bbox"] == [0, 0, image["width"], image["height"]]
    assert Path(image["file_name"]).is_file()


def test_fiftyone_gets_samples_with_fields_that_it_accepts(labelled: Settings, tmp_path: Path) -> None:
    done = run_json("export", "--home", labelled.home, "-o", tmp_path / "fo", "--format", "fiftyone")
    metadata = json.loads((tmp_path / "fo/metadata.json").read_text())
    samples = json.loads((tmp_path / "fo/samples.json").read_text())["samples"]
    assert (metadata["name"], metadata["media_type"], len(samples)) == ("fo", "image", done["pictures"])
    assert "version" not in metadata  # FiftyOne then reads plain samples
    first = samples[0]
    assert Path(first["filepath"]).is_file() and first["tags"] == []
    assert first["ground_truth"] == {"_cls": "Classification", "label": "odd, all"}
    assert (first["gr_e_cm"], first["meta_id"], first["metadata"]["_cls"]) == (1.0, "=1+1", "ImageMetadata")
    assert samples[-1]["ground_truth"] is None
    with Searcher(labelled) as searcher:
        encoder = searcher.get_encoder().fingerprint
        mu = searcher.catalogue.embeddings.get_many([first["image_id"]], encoder)[first["image_id"]].mu
    assert first["embedding"] == mu.tolist()


def test_tasks_for_label_studio_have_the_class_of_the_neighbours(labelled: Settings, tmp_path: Path) -> None:
    export_embeddings(labelled, tmp_path / "tasks.json", dataset_format="label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    data, (prediction,) = tasks[-1]["data"], tasks[-1]["predictions"]  # an image without a class
    assert unquote(data["image"]) == f"/data/local-files/?d={data['path'][1:]}"
    assert 0 < prediction["score"] <= 1
    (result,) = prediction["result"]
    assert result["value"]["choices"][0] in ("even", "odd, all")
    assert (result["type"], result["from_name"], result["to_name"]) == ("choices", "class", "image")


def test_tasks_without_any_class_have_no_predictions(home_with_digits: Settings, tmp_path: Path) -> None:
    export_embeddings(home_with_digits, tmp_path / "tasks.json", dataset_format="label-studio")
    assert all("predictions" not in task for task in json.loads((tmp_path / "tasks.json").read_text()))


def test_an_output_that_does_not_fit_the_format_is_refused(labelled: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, dataset_format in (("all.csv", "coco"), ("tasks", "label-studio"), ("file", "fiftyone")):
        with pytest.raises(BadSetting, match="can't be written"):
            export_embeddings(labelled, tmp_path / name, dataset_format=dataset_format)
    with pytest.raises(BadSetting, match="there are: class"):
        export_embeddings(labelled, tmp_path / "all.json", dataset_format="coco", label="species")
    with pytest.raises(BadSetting, match="add --format"):
        run_simile("export", "--home", labelled.home, "-o", tmp_path / "all.csv", "--label", "class")
