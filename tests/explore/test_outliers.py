"""Outliers: what each signal says on made-up images, and the command on real ones with strangers among them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.atomic_write import check_output_path
from simile.core.errors import BadSetting, NothingIndexed, NoVariance, TooFewPictures
from simile.core.settings import Settings, load_settings
from simile.explore.arrays import ignore_progress
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.measurements import compute_detail, measure_images
from simile.explore.latent.sampling import sample_prior
from simile.explore.outliers.detector import (
    combine_ranks,
    compute_negative_log_density,
    compute_neighbour_distances,
    compute_relative_error,
    find_outliers,
    make_outlier_reason,
)
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.search.searcher import Searcher
from tests.support.commands import run_json, run_simile

RANDOM = np.random.default_rng(0)
CLOUD = RANDOM.normal(size=(400, 6)).astype(np.float32)


def uncounted(rows: int) -> None:
    pass


@pytest.fixture
def with_strangers(tmp_path: Path, home_with_digits: Settings) -> Settings:
    """120 digits and four images of nothing but noise, stranger-0.png to stranger-3.png."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(noise).save(folder / f"stranger-{number}.png")
    index(home_with_digits, [folder], IndexRequest())
    return home_with_digits


def test_images_of_one_pixel_have_outliers(tmp_path: Path) -> None:
    (folder := tmp_path / "dots").mkdir()
    for number in range(60):
        Image.new("RGB", (1, 1), (number, 2 * number, 255 if number == 7 else 0)).save(folder / f"{number:02}.png")
    settings = load_settings(home=tmp_path / "home", device="cpu", workers=1)
    request = TrainingRequest(recipe="vae", overrides={"latent_dim": 4, "width": 8, "epochs": 1})
    train_on_sources(settings, [folder], request, lambda _: None)
    index(settings, [folder], IndexRequest())
    with Searcher(settings) as searcher:
        outliers, _ = find_outliers(searcher, 3, ignore_progress)
    assert len(outliers) == 3


# Signals


def test_a_bunch_of_strangers_smaller_than_the_neighbour_asked_for_does_not_hide_itself() -> None:
    bunch = 8 + 0.01 * RANDOM.normal(size=(8, 6)).astype(np.float32)
    distances, neighbour = compute_neighbour_distances(np.concatenate([CLOUD, bunch]), 0, uncounted)
    assert neighbour == 10
    assert distances[400:].min() > np.quantile(distances[:400], 0.99)


def test_the_distance_to_the_kth_neighbour_is_exact() -> None:
    distances, neighbour = compute_neighbour_distances(CLOUD, 0, uncounted)
    apart = np.sort(np.linalg.norm(CLOUD[:, None].astype(float) - CLOUD[None], axis=2), axis=1)
    np.testing.assert_allclose(distances, apart[:, neighbour], rtol=1e-4)  # place 0 is the image itself


def test_strangers_do_not_bend_the_density_to_themselves() -> None:
    bunch = 6 + 0.05 * RANDOM.normal(size=(8, 6)).astype(np.float32)
    found = compute_negative_log_density(np.concatenate([CLOUD, bunch]), None, 0)
    assert found[400:].min() > np.quantile(found[:400], 0.99)


def test_a_dimension_that_the_encoder_is_not_sure_of_does_not_make_an_image_strange() -> None:
    silent = 1e-3 * RANDOM.normal(size=(400, 1)).astype(np.float32)  # as a collapsed dimension has it: μ ≈ 0, σ ≈ 1
    silent[7] = 0.02
    mu = np.concatenate([CLOUD, silent], axis=1)
    sigma = np.concatenate([np.full_like(CLOUD, 0.1), np.ones_like(silent)], axis=1)
    assert compute_negative_log_density(mu, None, 0).argmax() == 7
    assert (compute_negative_log_density(mu, sigma, 0) < compute_negative_log_density(mu, sigma, 0)[7]).mean() < 0.9


def test_an_error_that_the_detail_explains_is_not_strange() -> None:
    detail = RANDOM.uniform(0.01, 1, 200)
    error = 0.1 * detail * np.exp(0.05 * RANDOM.normal(size=200))
    plain = detail.argmin()
    error[plain] *= 5  # badly reconstructed for so plain an image, yet below the largest errors
    assert error.argmax() != plain
    assert compute_relative_error(error, detail).argmax() == plain


def test_images_that_could_not_be_read_have_no_error_and_cost_the_others_nothing() -> None:
    error, detail = RANDOM.uniform(0.01, 1, 100), RANDOM.uniform(0.01, 1, 100)
    error[3] = np.nan
    found = compute_relative_error(error, detail)
    assert np.isnan(found[3]) and np.isfinite(np.delete(found, 3)).all()


def test_equal_images_have_finite_signals() -> None:
    same = np.ones((50, 4), np.float32)
    assert np.isfinite(compute_negative_log_density(same, None, 0)).all()
    assert np.isfinite(compute_relative_error(np.full(50, 0.1), np.full(50, 0.2))).all()
    assert compute_neighbour_distances(same, 0, uncounted)[0].max() == pytest.approx(0, abs=1e-3)


def test_the_two_strongest_signals_decide_and_a_missing_one_counts_for_nothing() -> None:
    ranks = {"a": np.array([0.99, 0.99, 0.5]), "b": np.array([0.99, np.nan, 0.5]), "c": np.array([0.1, 0.1, 0.5])}
    score = combine_ranks(ranks)
    np.testing.assert_allclose(score[0], -2 * np.log(0.01))
    np.testing.assert_allclose(score[1], -np.log(0.01) - np.log(0.9))
    assert score.argmax() == 0


def test_the_reason_names_the_strongest_signals_only() -> None:
    assert make_outlier_reason({"distance": 0.999, "density": 0.3, "reconstruction": 0.2}, 22) == (
        "Farther from its 22nd neighbour than 99.90 % of the others."
    )
    assert " and in a thinner region" in make_outlier_reason(
        {"distance": 0.99, "density": 0.95, "reconstruction": 0.2}, 113
    )


def test_detail_is_the_mean_squared_gradient() -> None:
    ramp = np.tile(np.arange(0, 255, 51, np.uint8), (5, 1))[None, :, :, None]  # 0.2 a pixel, to the right
    assert compute_detail(ramp)[0] == pytest.approx(0.04, rel=1e-5)
    assert compute_detail(np.full((1, 5, 5, 1), 9, np.uint8))[0] == 0
    row = np.arange(0, 50, 10, dtype=np.uint8).reshape(1, 1, 5, 1)  # a step of 10 at each pixel, in one direction
    for images in (row, row.transpose(0, 2, 1, 3)):
        assert compute_detail(images)[0] == pytest.approx((10 / 255) ** 2)
    assert compute_detail(np.zeros((3, 1, 1, 3), np.uint8)).tolist() == [0, 0, 0]


# A collection


def test_noise_among_digits_stands_out(with_strangers: Settings) -> None:
    with Searcher(with_strangers) as searcher:
        found, judged = find_outliers(searcher, 10, ignore_progress)
        again, _ = find_outliers(searcher, 10, ignore_progress)
    assert {f"stranger-{n}.png" for n in range(4)} <= {Path(one.path).name for one in found}
    assert set(judged.ranks) == {"reconstruction", "distance", "density"} and len(judged.ids) == 124
    assert all(one.reason.endswith(".") for one in found)
    assert found == again


def test_images_are_read_once_and_measured_again_where_the_file_is_damaged(with_strangers: Settings) -> None:
    stages: list[str] = []
    with Searcher(with_strangers) as searcher:
        find_outliers(searcher, 1, lambda *said: stages.append(said[0]))
        assert "measuring images" in stages
        stages.clear()
        find_outliers(searcher, 1, lambda *said: stages.append(said[0]))
        assert "measuring images" not in stages
        (kept,) = (with_strangers.home / "measures").iterdir()
        kept.write_bytes(b"no archive of numpy's")
        find_outliers(searcher, 1, lambda *said: stages.append(said[0]))
        assert "measuring images" in stages


def test_a_file_that_is_gone_is_judged_by_the_other_signals(with_strangers: Settings, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "strangers")
    with Searcher(with_strangers) as searcher:
        found, judged = find_outliers(searcher, 124, ignore_progress)
        gone = [one for one in found if "stranger" in one.path]
        measures = measure_images(searcher, judged.ids, ignore_progress)
    assert len(gone) == 4 and all(set(one.ranks) == {"distance", "density"} for one in gone)
    assert np.isnan(measures.detail).sum() == 4


def test_an_empty_home_and_a_tiny_one_are_refused_with_a_reason(trained_home: Settings, digits: Path) -> None:
    with Searcher(trained_home) as searcher, pytest.raises(NothingIndexed, match="simile index"):
        find_outliers(searcher, 5, ignore_progress)
    index(trained_home, sorted(digits.iterdir())[:5], IndexRequest())
    with Searcher(trained_home) as searcher:
        with pytest.raises(TooFewPictures, match="contains 5 images"):
            find_outliers(searcher, 5, ignore_progress)
        with pytest.raises(BadSetting, match="count can't be 0"):
            find_outliers(searcher, 0, ignore_progress)


def test_an_encoder_without_a_decoder_and_without_a_variance_judges_by_the_other_signals(
    tmp_path: Path, digits: Path
) -> None:
    for number, path in enumerate(sorted(digits.iterdir())):
        (digits / str(number % 2)).mkdir(exist_ok=True)
        path.rename(digits / str(number % 2) / path.name)
    settings = load_settings(home=tmp_path / "supervised", workers=2, device="cpu")
    overrides = {"latent_dim": 8, "width": 4, "epochs": 1}
    train_on_sources(
        settings, [digits], TrainingRequest(recipe="supervised", overrides=overrides, labels="folders"), lambda _: None
    )
    index(settings, [digits], IndexRequest())
    with Searcher(settings) as searcher:
        assert not searcher.get_encoder().has_decoder and load_aggregate_posterior(searcher).sigma is None
        found, judged = find_outliers(searcher, 5, ignore_progress)
        with pytest.raises(NoVariance, match=r"has no variance.*--recipe vae"):
            sample_prior(searcher, 1, 1.0, 0)
    assert len(found) == 5 and set(judged.ranks) == {"distance", "density"}
    for name in ("sheet.png", "page.html"):
        run_json("outliers", "--home", settings.home, "--device", "cpu", "--count", 5, "--output", tmp_path / name)
    assert "what the model saw" not in (tmp_path / "page.html").read_text(encoding="utf-8")


# The command


def test_the_command_writes_a_sheet_a_page_and_a_table(with_strangers: Settings, tmp_path: Path) -> None:
    command = ("outliers", "--home", with_strangers.home, "--device", "cpu", "--count", 9)
    for name in ("sheet.png", "page.html", "table.csv"):
        assert run_simile(*command, "--output", tmp_path / name).exit_code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height > 400
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 9 and page.count("its reconstruction") == 9 and "stranger-0.png" in page
    with (tmp_path / "table.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 10)]
    assert all(0 < float(row["density_rank"]) < 1 for row in rows)


def test_the_command_gives_json(with_strangers: Settings) -> None:
    body = run_json("outliers", "--home", with_strangers.home, "--device", "cpu", "--count", 2)
    assert len(body["outliers"]) == 2 and body["images"] == 124 and body["neighbour"] == 10
    assert {"image_id", "path", "score", "ranks", "reason"} == set(body["outliers"][0])


def test_an_output_that_can_t_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    for path in (tmp_path / "a.txt", tmp_path / "missing" / "a.png", tmp_path):
        with pytest.raises(BadSetting, match=r"can't be written|no folder"):
            check_output_path(path, (".png", ".csv", ".html"))
