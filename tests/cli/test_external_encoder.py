"""Every command with an encoder that simile did not train and that has no decoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simile.core.errors import BadSetting, NoDecoder, NoSuchEncoder
from simile.core.settings import Settings, load_settings
from simile.images.formats import DEFAULT_LIMITS, Pixels
from simile.images.loading.loader import PreparedImage, is_in_file, prepare_files
from simile.images.transforms import Preprocessing, scale_to_unit
from simile.indexer.training.dataset import TrainingSet
from simile.indexer.training.teacher import VIEW_DIM, encode_with_teacher
from simile.models.inference.encoder import TrainedEncoder
from simile.models.recipes import load_recipe
from simile.models.training.loop import split_train_validation
from simile.search.encoder_registry import find_encoder
from simile.store.home import Home
from simile.store.index.metric import make_index_vectors
from tests.conftest import app_client, copy_some
from tests.models.external import model_files as models
from tests.support.commands import run_json, run_simile

COUNT = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, _all_digits: Path) -> Path:
    return copy_some(_all_digits, tmp_path_factory.mktemp("digits") / "photos", COUNT)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Settings:
    """A home with an external encoder that has indexed the digits."""
    folder = tmp_path_factory.mktemp("external")
    model = models.export_onnx(models.small_network(), folder / "model.onnx")
    (folder / "preprocess.json").write_text(json.dumps(models.PREPROCESS))
    home = ("--home", folder / "home")
    added = run_json("encoders", "add", model, "--name", "other", "--preprocess", folder / "preprocess.json", *home)
    assert added["active"] and added["dimensions"] == 12
    assert run_json("index", photos, *home)["embedded"] == COUNT
    return load_settings(home=folder / "home", device="cpu", workers=2, allowed_hosts="testserver")


@pytest.fixture
def home(settings: Settings) -> tuple[str, Path]:
    return "--home", settings.home


def test_searches_find_the_image_and_its_neighbours(home: Any, photos: Path) -> None:
    image = sorted(photos.glob("*.png"))[5]
    found = run_json("search", image, "-k", 4, *home)
    assert found["hits"][0]["path"] == str(image) and found["hits"][0]["distance"] < 1e-3
    again = run_json("search", "--id", found["hits"][0]["image_id"], "-k", 3, *home)
    assert [hit["path"] for hit in again["hits"]] == [hit["path"] for hit in found["hits"][1:]]


def test_copies_are_found_and_confirmed_without_a_decoder(home: Any, photos: Path, tmp_path: Path) -> None:
    from simile.images.encoding import encode_jpeg
    from tests.support.synthetic_images import scene

    folder = tmp_path / "scenes"
    folder.mkdir()
    for seed in range(12):
        (folder / f"{seed}.jpg").write_bytes(encode_jpeg(scene(seed, 96, 96), 95))
    (folder / "copy.jpg").write_bytes(encode_jpeg(scene(3, 96, 96), 60))
    home = ("--home", shutil.copytree(home[1], tmp_path / "home"))
    run_json("index", folder, *home)
    groups = run_json("dedup", "--under", folder, *home)["groups"]
    assert {Path(member["path"]).name for member in groups[0]["members"]} == {"3.jpg", "copy.jpg"}
    assert groups[0]["tier"] == "near"


def test_map_outliers_attributes_and_evaluation_need_only_vectors(home: Any, photos: Path, tmp_path: Path) -> None:
    assert run_json("map", *home)["clusters"]
    assert run_json("outliers", *home)["outliers"]
    labels = tmp_path / "labels.csv"
    files = sorted(photos.glob("*.png"))
    labels.write_text("".join(f"{file},{'round' if number % 2 else 'straight'}\n" for number, file in enumerate(files)))
    run_json("attribute", "learn", "round", photos, "--labels", labels, *home)
    hits = run_json("search", files[0], "--plus", "round", "-k", 3, *home)["hits"]
    assert len(hits) == 3
    rows = run_json("evaluate", photos, "--limit", 40, *home)["rows"]
    assert any(row["name"].startswith("other") for row in rows)
    assert run_json("verify", *home)["problems"] == []
    assert run_json("export", "--encoder", "other", "-o", tmp_path / "vectors.npz", *home)["pictures"] >= COUNT
    assert run_json("status", *home)["encoder"]["name"] == "other"


@pytest.mark.parametrize(
    "command",
    [
        "reconstruct IMAGE -o a.png",
        "morph --id 1 --id 2 -o a.gif",
        "generate -o a.png",
        "traverse --id 1 -o a.png",
        "manifold -o a.png",
        "continuity",
        "uncertainty IMAGE",
        "compress IMAGE -o a.simile",
    ],
)
def test_what_needs_a_decoder_names_the_command_that_trains_one(
    command: str, home: Any, photos: Path, tmp_path: Path
) -> None:
    image = str(next(photos.glob("*.png")))
    with pytest.raises(NoDecoder, match="simile train PHOTOS --decoder-only"):
        run_simile(*command.replace("IMAGE", image).split(), *home)


def test_a_training_can_t_start_from_it(home: Any, photos: Path) -> None:
    for option in ("--from", "--features"):
        with pytest.raises(BadSetting, match="--decoder-only other"):
            run_simile("train", photos, option, "other", "--epochs", 1, *home)


def test_the_page_and_the_api_work_with_it(settings: Settings, photos: Path) -> None:
    image = next(photos.glob("*.png"))
    with app_client(settings) as client:
        assert client.get("/").status_code == 200 and client.get("/map").status_code == 200
        found = client.post("/v1/search", files={"file": image.read_bytes()}).json()
        assert found["hits"][0]["path"] == str(image)
        assert client.get(f"/pictures/{found['hits'][0]['image_id']}").status_code == 200
        assert client.get("/v1/encoders").json()["encoders"][0]["recipe"] == "other"


def test_a_home_switches_to_it_and_back(home_with_digits: Settings, tmp_path: Path) -> None:
    home = ("--home", home_with_digits.home)
    before = run_json("status", *home)["encoder"]["fingerprint"]
    image = run_json("search", "--id", 1, "-k", 1, *home)["hits"][0]["path"]
    model = models.export_onnx(models.small_network(), tmp_path / "model.onnx")
    (tmp_path / "preprocess.json").write_text(json.dumps(models.PREPROCESS))
    added = run_json(
        *("encoders", "add", model, "--name", "other", "--preprocess", tmp_path / "preprocess.json", *home)
    )
    assert not added["active"]
    run_json("index", Path(image).parent, "--encoder", "other", *home)
    assert run_json("status", *home)["encoder"]["name"] == "other"
    assert run_json("search", image, "-k", 1, *home)["hits"][0]["path"] == image
    run_json("encoders", "activate", before, *home)
    assert run_json("status", *home)["encoder"]["fingerprint"] == before


def test_a_decoder_over_it_leaves_its_vectors_and_shows_reconstructions(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(settings.home, tmp_path / "home")
    home = ("--home", copied)
    options = ("--decoder-only", "other", "--epochs", 60, "--image-size", 16, "--width", 8)
    trained = run_json("train", photos, *options, *home)
    epochs = json.loads((Path(trained["folder"]) / "report.json").read_text())["epochs"]
    errors = [epoch["validation"]["squared_error"] for epoch in epochs]
    assert errors[-1] < 0.8 * errors[0]
    assert (Path(trained["folder"]) / "reconstructions.png").is_file()
    before, after = (find_encoder(Home(copied), name, "cpu") for name in ("other", "other-decoder"))
    assert after.has_decoder and after.fingerprint == trained["fingerprint"]
    images = read_images(photos, after)
    mu = after.encode(images).mu
    np.testing.assert_array_equal(mu, before.encode(images).mu)
    # Decoded at 16 pixels and enlarged to the input, and nearer to each image than their mean is.
    assert after.network.architecture.decoder_size == 16
    decoded = after.decode(mu)
    assert decoded.shape == (len(images), 3, 32, 32)
    unit = scale_to_unit(images)
    assert np.square(decoded - unit).mean() < 0.9 * np.square(unit.mean(0) - unit).mean()
    assert after.compute_errors(images, mu) is not None
    # Everything that needs a decoder works with it.
    run_json("index", photos, "--encoder", "other-decoder", *home)
    image = next(photos.glob("*.png"))
    for command in (
        "reconstruct IMAGE -o a.png",
        "morph --id 1 --id 2 -o a.gif",
        "traverse --id 1 -o b.png",
        "continuity",
    ):
        assert run_simile(*command.replace("IMAGE", str(image)).split(), *home).exit_code == 0, command
    # Another one gets another name, and its error is the one that was measured in the training.
    again = run_json("train", photos, "--decoder-only", "other", "--epochs", 3, "--width", 4, *home)
    second = find_encoder(Home(copied), "other-decoder-2", "cpu")
    assert second.fingerprint == again["fingerprint"]
    held_out = split_train_validation(len(images), 0)[1]
    measured = second.compute_errors(images[held_out], mu[held_out])
    assert measured is not None
    assert measured.mean() == pytest.approx(again["best"]["validation"]["squared_error"], rel=0.02)


def test_a_decoder_is_trained_without_what_changes_an_encoder(home: Any, photos: Path) -> None:
    for option, value, reason in (
        ("--recipe", "invariant", "invariant trains an encoder"),
        ("--corrupt", "noise", "Leave out --recipe and --corrupt"),
        ("--image-size", 64, "image_size can't be 64"),
    ):
        with pytest.raises(BadSetting, match=reason):
            run_simile("train", photos, "--decoder-only", "other", "--epochs", 1, option, value, *home)


def test_a_training_learns_its_neighbours(settings: Settings, photos: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(settings.home, tmp_path / "home")
    home = ("--home", copied)
    size = ("--recipe", "vae", "--latent-dim", 8, "--width", 4, "--batch-size", 16)
    trained = run_json("train", photos, "--teacher", "other", "--epochs", 30, *size, *home)
    teacher, student = (find_encoder(Home(copied), name, "cpu") for name in ("other", trained["fingerprint"]))
    assert trained["teacher"] == {"fingerprint": teacher.fingerprint, "name": "other"}
    assert student.description.teacher == trained["teacher"]
    epochs = json.loads((Path(trained["folder"]) / "report.json").read_text())["epochs"]
    divergences = [epoch["validation"]["distillation"] for epoch in epochs]
    assert divergences[trained["best_epoch"] - 1] < 0.7 * divergences[0]
    # The content of the length that was asked for is indexed, and a view is free for what the teacher ignores.
    assert student.has_decoder and student.index_dims == 8 and student.latent_dim == 8 + VIEW_DIM


def test_the_vectors_of_a_teacher_are_those_that_are_indexed_with_it(settings: Settings, photos: Path) -> None:
    teacher = find_encoder(Home(settings.home), "other", "cpu")
    training_set = make_training_set([str(path) for path in sorted(photos.glob("*.png"))])
    learned = encode_with_teacher(teacher, training_set, settings)
    expected = make_index_vectors(teacher.encode(read_images(photos, teacher)).mu, None, "cosine")
    np.testing.assert_allclose(learned.vectors, expected, atol=1e-6)
    # In a file if they do not fit into memory with the images.
    little_memory = settings.model_copy(update={"train_memory": training_set.images.nbytes})
    in_file = encode_with_teacher(teacher, training_set, little_memory)
    assert is_in_file(in_file.vectors) and not is_in_file(learned.vectors)
    np.testing.assert_array_equal(in_file.vectors, learned.vectors)
    # It says nothing of files that can't be read again, and it must know most of them.
    paths = list(training_set.paths)
    partly = encode_with_teacher(teacher, make_training_set(["missing.png", *paths[1:]]), settings)
    assert np.isnan(partly.vectors[0]).all() and np.isfinite(partly.vectors[1:]).all()
    with pytest.raises(BadSetting, match="Teacher other gives vectors for 20 of 60 images"):
        encode_with_teacher(teacher, make_training_set([*paths[:20], *["missing.png"] * 40]), settings)


def test_a_teacher_to_which_all_images_are_the_same_is_refused(home: Any, photos: Path, tmp_path: Path) -> None:
    image = next(photos.glob("*.png"))
    for number in range(20):
        shutil.copyfile(image, tmp_path / f"{number}.png")
    with pytest.raises(BadSetting, match="Teacher other gives equal vectors for all images"):
        run_simile("train", tmp_path, "--teacher", "other", "--epochs", 1, *home)


def test_a_training_starts_from_another_encoder_with_it_as_teacher(
    settings: Settings, photos: Path, tmp_path: Path
) -> None:
    home = ("--home", shutil.copytree(settings.home, tmp_path / "home"))
    first = run_json("train", photos, "--recipe", "vae", "--latent-dim", 8, "--width", 4, "--epochs", 2, *home)
    options = ("--teacher", "other", "--teacher-weight", 20, "--epochs", 20)
    trained = run_json("train", photos, "--from", first["fingerprint"], *options, *home)
    assert trained["improved"] and trained["teacher"]["name"] == "other" and trained["latent_dim"] == 8


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--teacher unknown", "This home has no encoder 'unknown'"),
        ("--teacher other --decoder-only other", "Leave one of them out"),
        ("--teacher other --drawn 20", "Leave out --drawn"),
        ("--teacher other --recipe supervised --labels folders", "supervised learns from labels"),
        ("--teacher-weight 2", "Name one with --teacher"),
    ],
)
def test_a_teacher_that_the_other_options_contradict_is_refused(
    options: str, reason: str, home: Any, photos: Path
) -> None:
    with pytest.raises((BadSetting, NoSuchEncoder), match=reason):
        run_simile("train", photos, "--epochs", 1, *options.split(), *home)


def make_training_set(paths: list[str]) -> TrainingSet:
    return TrainingSet(
        images=np.zeros((len(paths), 16, 16, 1), np.uint8),
        digests=[],
        preprocessing=Preprocessing(image_size=16, channels=1),
        failures=[],
        recipe=load_recipe("vae"),
        paths=tuple(paths),
    )


def read_images(photos: Path, encoder: TrainedEncoder) -> Pixels:
    paths = [str(path) for path in sorted(photos.glob("*.png"))]
    prepared = prepare_files(paths, encoder.preprocessing, DEFAULT_LIMITS, 1)
    return np.stack([image.array for image in prepared if isinstance(image, PreparedImage)])
