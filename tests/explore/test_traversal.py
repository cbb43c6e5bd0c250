"""Walks along dimensions, grids of a plane, and how sure the encoder is of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, NoDecoder, NoVariance
from simile.core.settings import Settings
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.traversal import make_manifold, measure_latent_range, parse_dims, traverse_latents
from simile.explore.latent.uncertainty import measure_uncertainty
from simile.search.searcher import Searcher
from tests.support.commands import run_json, run_simile


def test_the_most_active_dimensions_come_first(searcher: Searcher) -> None:
    reach, mu = measure_latent_range(searcher), load_aggregate_posterior(searcher).mu
    assert reach.activity_order[0] == int(mu.std(axis=0).argmax()) and sorted(reach.activity_order) == list(range(16))
    assert parse_dims("3", reach) == reach.activity_order[:3]
    assert parse_dims("5,", reach) == [5] and parse_dims("7,1", reach) == [7, 1]
    for wrong in ("0", "-1", "1,1", "16,", "x", "", "1.5"):
        with pytest.raises(BadSetting, match="dims can't be"):
            parse_dims(wrong, reach)


def test_a_traversal_moves_one_dimension_alone_and_passes_its_start(searcher: Searcher) -> None:
    made = traverse_latents(searcher, 4, dims="2,9", span=2, steps=5)
    reach, mu = measure_latent_range(searcher), searcher.by_id(4, limit=1).query.mu
    assert made.frames.shape == (2, 5, 32, 32, 3) and made.dims == [2, 9]
    for row, dim in enumerate(made.dims):
        moved = made.latents[row] - mu
        assert np.abs(np.delete(moved, dim, axis=1)).max() == 0
        assert moved[:, dim] == pytest.approx(np.linspace(-2, 2, 5) * reach.deviation[dim], abs=1e-5)
        hit = made.nearest_hits[row][2]
        assert hit is not None and hit.image_id == 4
    middle = traverse_latents(searcher, dims="1", steps=3)
    assert middle.latents[0, 1] == pytest.approx(reach.mean)
    for wrong in ({"span": 0.0}, {"steps": 1}, {"dims": "16", "steps": 100}):
        with pytest.raises(BadSetting, match="can't be"):
            traverse_latents(searcher, **wrong)  # type: ignore[arg-type]


def test_a_manifold_spans_the_plane_of_most_variance_or_the_one_that_is_asked_for(searcher: Searcher) -> None:
    mu = load_aggregate_posterior(searcher).mu
    made = make_manifold(searcher, size=5)
    assert made.frames.shape == (25, 32, 32, 3)
    axes = np.stack([made.latents[4] - made.latents[0], made.latents[20] - made.latents[0]])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    assert axes[0] @ axes[1] == pytest.approx(0, abs=1e-4)
    along = ((mu - mu.mean(axis=0)) @ axes.T).var(axis=0)
    assert along[0] >= along[1] > mu.var(axis=0).max() * 0.5 and along[0] >= mu.var(axis=0).max()
    chosen = make_manifold(searcher, axes="3,7", size=3)
    moved = np.abs(chosen.latents - mu.mean(axis=0)).max(axis=0)
    assert np.flatnonzero(moved > 1e-4).tolist() == [3, 7]
    assert made.nearest_hits == []
    found = make_manifold(searcher, size=5, with_nearest=True).nearest_hits
    for mu, hit in zip(made.latents, found, strict=True):
        assert hit is not None and hit.image_id == searcher.by_vector(mu, limit=1).hits[0].image_id
    for wrong in ("3", "1,2,3", "plane"):
        with pytest.raises(BadSetting):
            make_manifold(searcher, axes=wrong)


def test_uncertainty_is_measured_and_is_the_same_for_the_same_seed(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        found, again = (measure_uncertainty(searcher, 3, samples=8, seed=1) for _ in range(2))
        latent = searcher.by_id(3, limit=1).query
        file = measure_uncertainty(searcher, Path(searcher.get_image(3).paths[0]), samples=8, seed=1)
    assert latent.sigma is not None and found.sigma == pytest.approx(latent.sigma, rel=1e-3)
    assert found.mean_deviation > 0 and found.deviation.max() == 255
    assert found.deviation.shape == found.reconstruction.shape
    one, other = ([each.log_likelihood, each.error, each.overlap] for each in (found, again))
    assert one == pytest.approx(other, rel=1e-5)  # a faster runtime may have taken over between the two
    assert found.error_percentile is not None and 0 <= found.error_percentile <= 100
    assert found.overlap is not None and found.same_nearest is not None
    assert 0 <= found.same_nearest <= 1 and 0 < found.overlap <= 1
    # An indexed image is no neighbour of itself, whether it is asked for by its file or by its id.
    assert file.log_likelihood == pytest.approx(found.log_likelihood) and file.same_nearest == found.same_nearest
    with Searcher(home_with_digits) as searcher, pytest.raises(BadSetting, match="samples can't be 1"):
        measure_uncertainty(searcher, 3, samples=1)


def test_an_image_of_noise_is_less_certain_than_a_digit(searcher: Searcher, tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)).save(noise)
    strange, usual = measure_uncertainty(searcher, noise), measure_uncertainty(searcher, 3)
    assert strange.error_percentile == 100 and strange.error > 3 * usual.error
    assert strange.log_likelihood is not None and usual.log_likelihood is not None
    assert strange.log_likelihood < usual.log_likelihood


def test_the_commands_write_images_and_json(home_with_digits: Settings, tmp_path: Path) -> None:
    home = ("--home", home_with_digits.home)
    walked = run_json("traverse", "--id", 3, "--dims", "2", "--steps", 3, "-o", "t.png", *home)
    assert [len(row["frames"]) for row in walked["rows"]] == [3, 3] and walked["rows"][0]["frames"][1]["nearest"]
    spread = run_json("manifold", "--size", 3, "-o", "m.png", *home)
    assert len(spread["mu"]) == 9 and "nearest" not in spread
    named = run_json("manifold", "--size", 3, "--nearest", "-o", "n.png", *home)
    assert named["mu"] == spread["mu"] and all(hit["path"] for hit in named["nearest"])
    with Image.open("n.png") as image:  # six rows of three tiles
        assert image.height > 1.5 * image.width > 500
    sure = run_json("uncertainty", "--id", 3, "-o", "u.png", *home)
    assert len(sure["sigma"]) == 16 and sure["bits_per_value"] < 8
    for name in ("t.png", "m.png", "u.png"):
        with Image.open(name) as image:
            assert image.width > 90
    assert "of the samples" in run_simile("uncertainty", "--id", 3, *home).stdout


def test_without_a_decoder_or_a_variance_each_says_what_is_missing(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = searcher.get_encoder()
    with monkeypatch.context() as patched:
        patched.setattr(encoder, "has_decoder", False)
        for work in (
            lambda: traverse_latents(searcher),
            lambda: make_manifold(searcher),
            lambda: measure_uncertainty(searcher, 1),
        ):
            with pytest.raises(NoDecoder, match="--decoder-only"):
                work()
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda batch: type(encode(batch))(encode(batch).mu, None))
    with pytest.raises(NoVariance, match="--recipe vae"):
        measure_uncertainty(searcher, 1)
