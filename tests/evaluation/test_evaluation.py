"""The ladder: its neighbours against scikit-learn, its scores by hand, its splits, its advice, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

from simile.cli.evaluate import evaluate as command
from simile.cli.options import CommandGroup
from simile.core.errors import BadSetting, NoSuchEncoder, TooFewPictures
from simile.core.records import Failure
from simile.core.settings import Settings, load_settings
from simile.evaluation import bootstrap, copy_retrieval
from simile.evaluation.baselines import PerceptualHash, PrincipalComponents, RawPixels
from simile.evaluation.benchmark import BenchmarkRow
from simile.evaluation.dataset import ImageReader, make_query_splits, make_thumbnails, read_dataset, sample_paths
from simile.evaluation.job import Evaluation, EvaluationRequest, evaluate
from simile.evaluation.latent_figures import draw_losses, draw_manifold, make_prior_grid
from simile.evaluation.metric_table import METRIC_COLUMNS, METRIC_GROUPS
from simile.evaluation.neighbours import (
    DISTANCE_BLOCK_BYTES,
    NearestRows,
    compute_average_precision,
    compute_label_scores,
    compute_majority_vote,
    compute_squared_distances,
    find_nearest,
)
from simile.evaluation.recommendation import recommend_encoder
from simile.evaluation.reconstruction import estimate_likelihood, score_reconstruction
from simile.images.decoding import decode_image
from simile.images.distortions import DISTORTION_KINDS
from simile.images.encoding import encode_png
from simile.images.formats import Limits
from simile.images.rendering.scatter import SCATTER_COLOURS, ScatterPanel, draw_scatter
from simile.images.transforms import Preprocessing
from simile.models import pretrained
from simile.models.checkpoints.description import EncoderDescription
from simile.models.inference.encoder import TrainedEncoder
from simile.models.networks.architecture import Architecture
from simile.models.networks.vae import Network
from simile.models.recipes import load_recipe
from simile.store.home import Home
from tests.conftest import copy_some
from tests.support.worker_tasks import abort_on_crash

DIGITS = load_digits()
PIXELS = DIGITS.data.astype(np.uint8)
BASE, QUERIES = PIXELS[:1200], PIXELS[1200:]
BASE_LABELS, QUERY_LABELS = DIGITS.target[:1200].astype(np.int64), DIGITS.target[1200:].astype(np.int64)
SPEC = Preprocessing(image_size=32, channels=1)


def quiet(stage: str, done: int, total: int) -> None:
    pass


# Neighbours


@pytest.mark.parametrize(("k", "weights"), [(5, "uniform"), (4, "distance")])
def test_votes_are_those_of_scikit_learn(k: int, weights: str) -> None:
    found = find_nearest(BASE, QUERIES, k)
    voted = compute_majority_vote(BASE_LABELS[found.rows], found.distances if weights == "distance" else None)
    reference = KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(BASE.astype(float), BASE_LABELS)
    assert (voted == reference.predict(QUERIES.astype(float))).mean() > 0.998  # at equal distances it picks any
    expected = reference.score(QUERIES.astype(float), QUERY_LABELS)
    assert (voted == QUERY_LABELS).mean() == pytest.approx(expected, abs=2e-3)


def test_distances_between_pixels_are_exact_integers() -> None:
    random = np.random.default_rng(0)
    base, queries = (random.integers(0, 256, (count, 12_288), dtype=np.uint8) for count in (40, 7))
    exact = np.square(base.astype(np.int64)[None] - queries.astype(np.int64)[:, None]).sum(2)
    found = np.concatenate([block for _, block in compute_squared_distances(base, queries)])
    assert np.array_equal(found, exact)


def test_distances_come_in_blocks_of_bounded_memory() -> None:
    base, queries = np.zeros((60_000, 1), np.float32), np.zeros((300, 1), np.float32)
    blocks = [(part, block.nbytes) for part, block in compute_squared_distances(base, queries)]
    assert len(blocks) > 1 and max(size for _, size in blocks) <= DISTANCE_BLOCK_BYTES
    assert [part.start for part, _ in blocks] == list(range(0, 300, blocks[0][0].stop))


def test_among_equal_distances_the_lower_row_comes_first() -> None:
    base = np.array([[3], [1], [2], [1], [1], [3], [1]], np.uint8)
    found = find_nearest(base, np.array([[1], [2]], np.uint8), 3)
    assert found.rows.tolist() == [[1, 3, 4], [2, 0, 1]]
    assert found.distances.tolist() == [[0, 0, 0], [0, 1, 1]]


def test_a_collection_smaller_than_k_gives_all_of_it() -> None:
    assert find_nearest(np.array([[1.0], [2.0]]), np.array([[3.0]]), 5).rows.tolist() == [[1, 0]]


def test_a_tie_of_votes_goes_to_the_smaller_class_and_a_neighbour_at_zero_decides() -> None:
    assert compute_majority_vote(np.array([[2, 1, 1, 2]])).tolist() == [1]
    assert compute_majority_vote(np.array([[2, 1, 1]]), np.array([[0.0, 0.1, 0.1]])).tolist() == [2]
    assert compute_majority_vote(np.array([[2, 1, 1]]), np.array([[1.0, 3.0, 3.0]])).tolist() == [2]


def test_average_precision_is_scikit_learns() -> None:
    relevant = np.random.default_rng(0).random((20, 50)) < 0.2
    expected = [average_precision_score(row, -np.arange(50)) for row in relevant]
    np.testing.assert_allclose(compute_average_precision(relevant), expected)
    assert np.isnan(compute_average_precision(np.zeros((1, 4), bool))[0])


def test_label_scores_agree_with_the_neighbours() -> None:
    scores = compute_label_scores(BASE, BASE_LABELS, QUERIES, QUERY_LABELS)
    found = find_nearest(BASE, QUERIES, 10)
    assert np.array_equal(scores.vote, compute_majority_vote(BASE_LABELS[found.rows[:, :5]]) == QUERY_LABELS)
    assert np.array_equal(scores.precision, (BASE_LABELS[found.rows] == QUERY_LABELS[:, None]).mean(1))
    assert 0.5 < scores.average_precision.mean() < 1


# What needs no training


def wavy(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth image, waves of random length and height, (h, w, 3) uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][..., None]  # (h, w, 1) each
    image = np.full((height, width, 3), 128.0)
    for _ in range(12):
        phase = 2 * np.pi * (random.uniform(0, 4) * x + random.uniform(-4, 4) * y)
        image += 30 * random.normal(size=3) * np.cos(phase)
    return np.clip(image, 0, 255).astype(np.uint8)


def hashed(pixels: np.ndarray) -> np.ndarray:
    spec = PerceptualHash.preprocessing
    return PerceptualHash().embed(spec.to_array(decode_image(encode_png(pixels), name="image"))[None])[0]


def test_phash_is_64_bits_half_of_them_set_and_survives_scaling_and_light() -> None:
    picture = wavy(240, 200, 0)
    bits = hashed(picture)
    assert bits.shape == (64,) and bits.sum() == 32
    assert (bits != hashed(picture[::2, ::2])).sum() <= 6
    assert (bits != hashed((picture * 0.7 + 20).astype(np.uint8))).sum() <= 4
    assert (bits != hashed(wavy(240, 200, 1))).sum() >= 16


def test_pixels_leave_padding_out() -> None:
    spec = Preprocessing(image_size=32, channels=1, fit="pad", content=(28, 20))
    padded = spec.to_array(decode_image(encode_png(wavy(28, 20, 0)[..., 0]), name="image"))[None]
    changed = padded.copy()
    changed[:, :2] = 255 - changed[:, :2]
    method = RawPixels(spec)
    assert method.embed(padded).shape == (1, 28 * 20) and method.dimension == 28 * 20
    assert np.array_equal(method.embed(padded), method.embed(changed))


def test_pca_keeps_more_with_more_numbers_and_gives_images_back() -> None:
    pictures = np.kron(PIXELS[:300].reshape(-1, 8, 8) * 15, np.ones((4, 4), np.uint8))[..., None].astype(np.uint8)
    errors = []
    for dimension in (2, 8, 64):
        method = PrincipalComponents(SPEC, dimension, seed=0)
        method.fit(pictures[:200])
        assert method.embed(pictures).shape == (300, dimension)
        kept = score_reconstruction(method, pictures[200:])
        assert kept is not None
        errors.append(kept.squared_error.mean())
        np.testing.assert_allclose(kept.psnr, -10 * np.log10(np.maximum(kept.squared_error, 1e-10)))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4  # 64 numbers hold all of an 8 x 8 image


def test_pca_of_fewer_images_than_numbers_is_as_long_as_it_can_be() -> None:
    method = PrincipalComponents(SPEC, 64, seed=0)
    pictures = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    method.fit(pictures)
    assert method.embed(pictures).shape == (20, 20)


# Copies


def planted(originals: list[int], kinds: list[str]) -> copy_retrieval.PlantedCopies:
    return copy_retrieval.PlantedCopies({}, np.array(originals), kinds)


def test_copy_scores_worked_out_by_hand() -> None:
    # Sorted by distance: right, right, wrong, right; the fourth copy's original comes second.
    rows = np.array([[0, 9], [1, 9], [9, 8], [9, 3]])
    found = NearestRows(rows, np.array([[0.1, 5.0], [0.2, 5.0], [0.3, 5.0], [0.35, 0.4]]))
    scores = copy_retrieval.score_copies(found, planted([0, 1, 2, 3], ["a", "b", "a", "b"]), np.arange(10), seed=0)
    assert scores.recall == 0.5
    assert scores.by_kind == {"a": 0.5, "b": 0.5}
    assert scores.micro_ap == pytest.approx((1 + 1 + 3 / 5) / 4)
    assert scores.recall_at_precision == 0.5


def test_equal_distances_are_taken_all_or_none() -> None:
    found = NearestRows(np.array([[0], [9], [9], [9]]), np.array([[1.0], [1.0], [1.0], [1.0]]))
    scores = copy_retrieval.score_copies(found, planted([0, 1, 2, 3], ["a"] * 4), np.arange(10), seed=0)
    assert scores.micro_ap == pytest.approx(0.25 * 0.25)
    assert scores.recall_at_precision == 0


def test_an_exact_duplicate_of_the_original_is_as_right_and_counts_once() -> None:
    identity = np.array([0, 0, 2, 3])
    found = NearestRows(np.array([[1, 0, 2], [2, 3, 1]]), np.array([[0.1, 0.2, 9], [0.3, 9, 9]]))
    scores = copy_retrieval.score_copies(found, planted([0, 2], ["a", "a"]), identity, seed=0)
    assert (scores.recall, scores.micro_ap, scores.recall_at_precision) == (1.0, 1.0, 1.0)


def test_the_same_seed_plants_the_same_copies_of_every_kind(digits: Path) -> None:
    paths = [str(path) for path in sorted(digits.iterdir())]
    reading = ImageReader(Limits(), 2, (SPEC, PerceptualHash.preprocessing))
    rows = np.array([3, 50])
    first, again, other = (copy_retrieval.plant_copies(paths, rows, reading, seed, quiet) for seed in (0, 0, 1))
    assert first.kinds == list(DISTORTION_KINDS) * 2
    assert first.originals.tolist() == np.repeat([3, 50], len(DISTORTION_KINDS)).tolist()
    assert np.array_equal(first.arrays[SPEC], again.arrays[SPEC])
    assert not np.array_equal(first.arrays[SPEC], other.arrays[SPEC])
    original = read_dataset(paths, reading, quiet).arrays[SPEC][3]
    assert np.array_equal(first.arrays[SPEC][DISTORTION_KINDS.index("mirror")], original[:, ::-1])


def test_large_originals_are_reduced_before_they_are_altered(tmp_path: Path) -> None:
    path, reading = str(tmp_path / "large.jpg"), ImageReader(Limits(), 1, (SPEC,))
    Image.fromarray(wavy(210, 150, 0)).resize((1500, 2100)).save(path)
    made = copy_retrieval.plant_copies([path], np.array([0]), reading, 0, quiet, ["grey"])
    whole = read_dataset([path], reading, quiet).arrays[SPEC]
    assert np.abs(made.arrays[SPEC].astype(int) - whole).mean() < 3


def test_a_file_that_takes_too_long_is_set_aside_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(encode_png(wavy(30, 30, 1)))
    Image.new("RGB", (9000, 9000)).save(tmp_path / "b.png", compress_level=1)
    paths, reading = sorted(map(str, tmp_path.iterdir())), ImageReader(Limits(seconds=0.25), 1, (SPEC,))
    reason = "decoding it took more than 0.25 seconds (SIMILE_DECODE_SECONDS)"
    collection = read_dataset(paths, reading, quiet)
    assert collection.paths == [paths[0], paths[2]]
    assert [(failure.path, failure.reason) for failure in collection.failures] == [(paths[1], reason)]
    made = copy_retrieval.plant_copies(paths, np.arange(3), reading, 0, quiet, ["grey", "mirror"])
    assert made.originals.tolist() == [0, 0, 2, 2] and made.kinds == ["grey", "mirror"] * 2
    assert len(made.arrays[SPEC]) == 4 and f"made no copies of {paths[1]}: {reason}" in caplog.messages
    assert [isinstance(one, bytes) for one in make_thumbnails(paths, reading, 32)] == [True, False, True]


def test_a_file_that_ends_its_process_is_set_aside(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"crash" if number == 1 else encode_png(wavy(30, 30, number)))
    paths = sorted(map(str, tmp_path.iterdir()))
    first, crashed, last = ImageReader(Limits(), 1, (SPEC,)).each(abort_on_crash, paths)
    assert (first, last) == (paths[0], paths[2])
    assert isinstance(crashed, Failure) and "the decoder crashed on it (SIGABRT)" in crashed.reason


# Splits and files


def test_every_image_is_a_query_once_and_never_of_itself() -> None:
    splits = make_query_splits(50, [None] * 50, 5, seed=0)
    assert sorted(np.concatenate([part.queries for part in splits]).tolist()) == list(range(50))
    for part in splits:
        assert sorted([*part.queries, *part.base]) == list(range(50))


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encode_png(wavy(30, 30, number)))
    with pytest.raises(TooFewPictures, match="5 readable images"):
        evaluate(load_settings(home=tmp_path / "home"), [tmp_path], EvaluationRequest(), quiet)


def test_a_sample_is_seeded_and_keeps_the_order() -> None:
    paths = [f"{number:03d}" for number in range(100)]
    assert sample_paths(paths, 100, 0) == paths
    sample = sample_paths(paths, 10, 0)
    assert sample == sample_paths(paths, 10, 0) == sorted(sample) != sample_paths(paths, 10, 1)


# Likelihoods of encoders


def encoder_with(recipe: str, **architecture: Any) -> TrainedEncoder:
    torch.manual_seed(0)
    network = Network(Architecture(image_size=32, channels=1, latent_dim=4, width=8, **architecture))
    return TrainedEncoder(network, SPEC, describe(network, recipe, load_recipe(recipe).to_dict()), "cpu")


def describe(network: Network, fingerprint: str, recipe: dict[str, Any]) -> EncoderDescription:
    made = {"architecture": network.architecture.to_dict(), "preprocessing": SPEC.to_dict(), "recipe": recipe}
    return EncoderDescription(fingerprint=fingerprint, **made, metric="l2", index_dims=None)


def test_only_a_variational_encoder_with_a_decoder_has_a_likelihood() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    found = estimate_likelihood(encoder_with("vae"), pictures, samples=8, seed=0)
    assert found is not None and found.log_likelihood is not None
    assert found.elbo < found.log_likelihood + 3 * (found.log_likelihood_error or 0)
    assert found.bits == pytest.approx(8 - found.elbo / (1024 * np.log(2)))
    assert estimate_likelihood(encoder_with("autoencoder", variational=False), pictures, samples=8, seed=0) is None
    without = estimate_likelihood(encoder_with("vae"), pictures, samples=0, seed=0)
    assert without is not None and without.log_likelihood is None and without.elbo == found.elbo


# Advice


def row(name: str, encoder: str | None, **figures: float) -> BenchmarkRow:
    """A row whose figures are means over 400 queries, each of which succeeds or fails."""
    made = BenchmarkRow(name=name, encoder=encoder, metrics=dict(figures))
    weights = bootstrap.make_bootstrap_weights(400, seed=0)
    for key, share in figures.items():
        values = (np.arange(400) < 400 * share).astype(float)
        made.bootstrap_values[key] = bootstrap.compute_bootstrap_means(values, weights)
        made.standard_errors[key] = float(made.bootstrap_values[key].std())
    return made


def test_advice_names_the_encoder_that_wins_beyond_the_noise() -> None:
    rows = [row("pixels", None, precision=0.6), row("vae", "a", precision=0.9), row("other", "b", precision=0.7)]
    said = recommend_encoder(rows)
    assert said.startswith("For search use vae (precision at 10 0.900 ± ") and "of pixels" in said
    assert "other" not in said


def test_advice_says_plainly_where_nothing_beats_pixels() -> None:
    said = recommend_encoder([row("pixels", None, precision=0.9), row("vae", "a", precision=0.7)])
    assert "no encoder is better than pixels" in said


def test_a_lead_within_the_noise_is_not_called_a_win() -> None:
    close = row("vae", "a", precision=0.9)
    noise = np.random.default_rng(1).normal(0, 0.02, bootstrap.BOOTSTRAP_DRAWS)
    close.bootstrap_values["precision"] = close.bootstrap_values["precision"] + noise
    said = recommend_encoder([row("pixels", None, precision=0.895), close])
    assert "no encoder is significantly better than pixels" in said


def test_encoders_within_the_noise_of_each_other_are_both_named() -> None:
    equal = (row(name, name, recall_at_precision=0.9) for name in ("one", "two"))
    said = recommend_encoder([row("pHash", None, recall_at_precision=0.5), *equal])
    assert "use one" in said and "no significant difference to two" in said


def test_without_labels_search_is_judged_by_copies_and_the_sentence_says_so() -> None:
    said = recommend_encoder([row("pixels", None, micro_ap=0.5), row("vae", "a", micro_ap=0.9)])
    assert "use vae (μAP of copies" in said and "there are no --labels" in said


def test_who_was_trained_on_the_labels_is_not_judged_by_them() -> None:
    knowing = row("supervised", "a", precision=1.0)
    knowing.is_trained_on_labels = True
    said = recommend_encoder([row("pixels", None, precision=0.6), row("vae", "b", precision=0.9), knowing])
    assert "use vae" in said and "excluded, trained on these labels: supervised" in said


# Drawings


def test_scatter_has_every_panel_and_a_colour_for_each_label() -> None:
    points = np.random.default_rng(0).standard_normal((90, 2)).astype(np.float32)
    points[3] = np.nan
    labels = [("cat", "dog", None)[number % 3] for number in range(90)]
    one, three = (
        decode_image(draw_scatter([ScatterPanel("title", "note", points, (1.0,))] * count, labels), name="chart").pixels
        for count in (1, 3)
    )
    assert three.shape[1] > 2 * one.shape[1] and three.shape[0] == one.shape[0]
    present = {tuple(colour) for colour in one.reshape(-1, 3).tolist()}
    assert {tuple(bytes.fromhex(SCATTER_COLOURS[number][1:])) for number in (0, 1)} <= present


def test_scatter_gives_no_more_than_ten_labels_a_colour() -> None:
    points = np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)
    data = draw_scatter([ScatterPanel("", "", points)], [f"label {number % 20}" for number in range(60)])
    assert decode_image(data, name="chart").width > 400


def test_the_prior_grid_holds_equally_likely_places_with_z2_upwards() -> None:
    grid = make_prior_grid(4).reshape(4, 4, 2)
    assert (np.diff(grid[..., 0], axis=1) > 0).all() and (np.diff(grid[..., 1], axis=0) < 0).all()
    assert grid[0, 0].tolist() == pytest.approx([-1.1503, 1.1503], abs=1e-3)  # the quantiles 1/8 and 7/8


def test_a_manifold_is_a_grid_without_gaps_and_needs_two_dimensions() -> None:
    torch.manual_seed(0)
    network = Network(Architecture(image_size=32, channels=1, latent_dim=2, width=8))
    spec = Preprocessing(image_size=32, channels=1, fit="pad", content=(28, 20))
    flat = TrainedEncoder(network, spec, describe(network, "flat", {}), "cpu")
    assert decode_image(draw_manifold(flat), name="grid").pixels.shape == (20 * 28 * 2, 20 * 20 * 2, 3)
    with pytest.raises(BadSetting, match="4 dimensions"):
        draw_manifold(encoder_with("vae"))


# The whole


def write_labels(digits: Path, target: Path) -> Path:
    lines = [f"{path.name},{path.stem.split('-')[1]}" for path in sorted(digits.iterdir())]
    target.write_text("\n".join(["file,label", *lines]))
    return target


@pytest.fixture(scope="module")
def settings(_trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of this module; nothing here writes to it."""
    home = shutil.copytree(_trained_home, tmp_path_factory.mktemp("evaluated") / "home")
    return load_settings(home=home, workers=2, device="cpu")


@pytest.fixture(scope="module")
def found(settings: Settings, _all_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    photos = copy_some(_all_digits, tmp_path_factory.mktemp("digits") / "photos", 120)
    labels = write_labels(photos, photos.with_name("labels.csv"))
    return evaluate(settings, [photos], EvaluationRequest(labels=str(labels), copies=6, samples=4), quiet)


def test_every_row_is_measured_in_the_columns_that_make_sense_for_it(found: Evaluation) -> None:
    names = [row.name.split()[0] for row in found.rows]
    assert names == ["pixels", "PCA-16", "PCA-160", "pHash", "shipped", "vae"]  # PCA as long as the encoders
    pixels, pca, _, phash, _, vae = found.rows
    for each in found.rows:
        assert each.metrics.keys() == {column.key for column in METRIC_COLUMNS}
        assert 0 < each.metrics["copy_recall"] <= 1 and each.copies_by_kind.keys() == set(DISTORTION_KINDS)
    assert pixels.metrics["mse"] is None and phash.metrics["mse"] is None and pca.metrics["elbo"] is None
    assert None not in vae.metrics.values()
    assert pixels.metrics["vote"] > 0.8
    assert vae.metrics["bytes_stored"] == 4 * 2 * 16 and vae.metrics["bytes_indexed"] == 4 * 16
    assert (phash.metrics["dimension"], phash.metrics["bytes_stored"]) == (64, 8)
    assert vae.metrics["elbo"] < vae.metrics["log_likelihood"]
    assert any("probably trained on these images" in note for note in found.notes)  # the same 120 digits


def test_the_same_seed_gives_the_same_ladder(settings: Settings, found: Evaluation) -> None:
    again = evaluate(settings, [Path(found.request.labels or "").with_name("photos")], found.request, quiet)
    for one, other in zip(found.rows, again.rows, strict=True):
        assert {**one.metrics, "speed": 0} == {**other.metrics, "speed": 0}
    assert found.advice == again.advice


def test_without_any_encoder_it_shows_the_baselines_and_how_to_train(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "SHIPPED_FOLDER", tmp_path / "missing")
    found = evaluate(load_settings(home=tmp_path / "none"), [digits], EvaluationRequest(copies=0), quiet)
    assert [row.name for row in found.rows] == ["pixels", "PCA-64", "pHash"]
    assert any("Install simile again" in note for note in found.notes)
    assert found.rows[0].metrics["vote"] is None and found.rows[0].metrics["copy_recall"] is None
    assert any("simile train" in note for note in found.notes)
    assert "--labels" in found.advice
    assert not (tmp_path / "none").exists()


def test_the_images_of_a_test_folder_are_the_queries(tmp_path: Path, digits: Path) -> None:
    asked = tmp_path / "asked"
    asked.mkdir()
    for path in sorted(digits.iterdir())[:20]:
        shutil.move(path, asked)
    rows = [f"{path.name},{path.stem[-1]}" for folder in (digits, asked) for path in sorted(folder.iterdir())]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    request = EvaluationRequest(labels=str(tmp_path / "labels.csv"), test=asked, copies=2)
    found = evaluate(load_settings(home=tmp_path / "none"), [digits], request, quiet)
    assert found.to_dict()["queries"] == 20
    assert found.benchmark_data.base_rows.tolist() == list(range(100))
    assert set(found.benchmark_data.example_queries.tolist()) <= set(range(100, 120))
    with pytest.raises(BadSetting, match="Use different images"):
        evaluate(load_settings(home=tmp_path / "none"), [digits], EvaluationRequest(test=digits), quiet)


def test_pca_never_saw_the_queries_of_its_fold(tmp_path: Path) -> None:
    """Each image is one bright pixel of its own: what PCA was fitted on it can show, the rest it can't."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        picture = np.zeros((28, 20), np.uint8)
        picture[number, number] = 255
        (folder / f"{number:02d}.png").write_bytes(encode_png(picture))
    found = evaluate(load_settings(home=tmp_path / "none"), [folder], EvaluationRequest(copies=0, folds=4), quiet)
    assert found.rows[1].metrics["mse"] == pytest.approx(1 / 560, rel=0.15)
    pixels = found.rows[0].metrics  # which need no embedding, padded or not
    assert (pixels["input"], pixels["dimension"], pixels["speed"]) == ("20×28 grey", 560, None)


def test_losses_draws_three_trainings_twice(tmp_path: Path, digits: Path) -> None:
    request = EvaluationRequest(limit=40)
    stages: set[str] = set()
    settings = load_settings(home=tmp_path / "none", device="cpu")
    data = draw_losses(settings, [digits], request, lambda stage, *_: stages.add(stage), epochs=2)
    assert {"only reconstruction", "only kl", "both"} <= stages
    assert decode_image(data, name="chart").width > 3 * 400


# The command


app = CommandGroup()
app.command()(command)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command_writes_tables_json_and_a_report_that_stands_alone(
    settings: Settings, digits: Path, tmp_path: Path
) -> None:
    labels = write_labels(digits, tmp_path / "labels.csv")
    (digits / "broken.png").write_text("no image")
    report = tmp_path / "report.html"
    options = ("--home", settings.home, "--labels", labels, "--copies", "4", "--samples", "2", "--device", "cpu")
    shown = run(digits, *options, "--output", report)
    assert shown.exit_code == 0
    for group in METRIC_GROUPS:
        assert group.title in shown.stdout
    assert "For search" in shown.stdout and "broken.png" in shown.stdout
    page = report.read_text(encoding="utf-8")
    assert "pHash" in page and "broken.png" in page and page.count("data:image/png") > 3
    assert "http://" not in page and "https://" not in page and "<script" not in page
    body = json.loads(run(digits, *options, "--json").stdout)
    assert body["pictures"] == 120 and [failure["path"] for failure in body["failures"]] == [str(digits / "broken.png")]
    names = [row["name"].split()[0] for row in body["rows"]]
    assert names == ["pixels", "PCA-16", "PCA-160", "pHash", "shipped", "vae"]
    assert body["rows"][0]["mse"] is None and body["rows"][-1]["standard_errors"]["vote"] > 0


def test_one_encoder_can_be_named(trained_home: Settings, digits: Path) -> None:
    known = next(Home(trained_home.home).encoders.glob("[0-9a-f]*")).name
    found = evaluate(trained_home, [digits], EvaluationRequest(encoders=(known[:6],), copies=0, samples=0), quiet)
    assert found.rows[-1].encoder == known
    with pytest.raises(NoSuchEncoder):
        evaluate(trained_home, [digits], EvaluationRequest(encoders=("nothing",)), quiet)


def test_contradicting_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for arguments, words in (
        (("photos", "--output", "report.pdf"), "ends in .html"),
        (("photos", "--picture", "losses"), "--output FILE.png"),
        (("photos", "--picture", "cats", "--output", "a.png"), "losses or manifold"),
        ((), "Name the images"),
        (("photos", "--output", "nowhere/report.html"), "not a folder"),
    ):
        with pytest.raises(BadSetting, match=words):
            run(*arguments)
