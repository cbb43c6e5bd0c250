"""Images that were never taken: from the prior, from a mixture over the collection, around one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, NoDecoder, NoSuchPath, NoVariance, TooFewPictures
from simile.core.settings import Settings
from simile.explore.latent import sampling
from simile.explore.latent.aggregate_posterior import load_aggregate_posterior
from simile.explore.latent.sampling import fit_mixture, generate_images, get_mixture
from simile.indexer.pipeline.uploads import delete_image
from simile.search.searcher import Searcher
from tests.support.commands import run_json


@pytest.mark.parametrize("source", ["prior", "mixture", 3])
def test_the_same_seed_makes_the_same_images_and_another_others(searcher: Searcher, source: str | int) -> None:
    made, again, other = (generate_images(searcher, source, 5, seed=seed) for seed in (1, 1, 2))
    assert made.images.shape == (5, 32, 32, 3) and made.latents.shape == (5, 16)
    assert (made.latents == again.latents).all() and (made.images == again.images).all()
    assert not (made.latents == other.latents).all()


def test_the_mixture_has_the_spread_of_the_aggregate_posterior(searcher: Searcher) -> None:
    everything = load_aggregate_posterior(searcher)
    drawn = generate_images(searcher, "mixture", 400).latents
    assert everything.sigma is not None
    wanted = everything.mu.var(axis=0) + np.square(everything.sigma).mean(axis=0)
    assert drawn.var(axis=0).sum() == pytest.approx(wanted.sum(), rel=0.15)
    assert np.linalg.norm(drawn.mean(0) - everything.mu.mean(0)) < 0.6


def test_the_mixture_is_fitted_once_and_kept_until_the_collection_is_another(
    home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []

    def counted(mu: np.ndarray, seed: int) -> object:
        fitted.append(len(mu))
        return fit_mixture(mu, seed)

    monkeypatch.setattr(sampling, "fit_mixture", counted)
    with Searcher(home_with_digits) as searcher:
        made = generate_images(searcher, "mixture", 5, seed=1).latents
    with Searcher(home_with_digits) as searcher:
        assert (generate_images(searcher, "mixture", 5, seed=1).latents == made).all()
        generate_images(searcher, "mixture", 5, seed=2)
        assert fitted == [120]
        (path,) = (searcher.home.root / "measures").glob("*-mixture.npz")
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", whole[:-200] + bytes(200)):
            path.write_bytes(damaged)
            get_mixture(searcher)
        path.unlink()  # it may be deleted at any time
        get_mixture(searcher)
        assert fitted == [120] * 5
        for image_id in range(1, 45):
            delete_image(searcher, image_id)
        get_mixture(searcher)
        assert fitted[5:] == [76]
        searcher.index.publish()
        get_mixture(searcher)
        assert fitted[5:] == [76, 76]


def test_a_home_that_cannot_be_written_has_its_mixture_fitted_each_time(home_with_digits: Settings) -> None:
    (home_with_digits.home / "measures").write_text("a file in the way")
    with Searcher(home_with_digits) as searcher:
        assert (get_mixture(searcher).means == get_mixture(searcher).means).all()


def test_the_mixture_finds_as_many_clusters_as_there_are() -> None:
    random = np.random.default_rng(0)
    clusters = np.concatenate([random.normal(size=(200, 2)) + centre for centre in ([0, 0], [20, 0])])
    assert fit_mixture(clusters, 0).n_components == 2


def test_without_temperature_everything_is_the_image_itself(searcher: Searcher) -> None:
    made = generate_images(searcher, 3, 2, temperature=0)
    mu = searcher.by_id(3).query.mu
    assert np.abs(made.latents - mu).max() == 0
    assert np.abs(generate_images(searcher, "prior", 2, temperature=0).latents).max() == 0


def test_what_an_encoder_cannot_do_is_said(searcher: Searcher) -> None:
    with pytest.raises(BadSetting, match="temperature"):
        generate_images(searcher, temperature=float("nan"))
    with pytest.raises(BadSetting, match="prior, mixture"):
        generate_images(searcher, "posterior")
    encoder = searcher.get_encoder()
    encoder.has_variance = False
    with pytest.raises(NoVariance, match="--recipe vae"):
        generate_images(searcher)
    encoder.has_decoder = False
    with pytest.raises(NoDecoder, match="--decoder-only"):
        generate_images(searcher)


def test_a_mixture_needs_a_collection(searcher: Searcher) -> None:
    for image_id in range(1, 80):
        delete_image(searcher, image_id)
    with pytest.raises(TooFewPictures, match="41 images"):
        generate_images(searcher, "mixture")


def test_the_command_writes_a_grid(home_with_digits: Settings, tmp_path: Path) -> None:
    options = ("--home", home_with_digits.home, "--device", "cpu", "-o", tmp_path / "grid.png")
    for source in (["--from", "mixture"], ["--id", "2"], []):
        assert len(run_json("generate", "--count", 9, *source, *options)["mu"]) == 9
        with Image.open(tmp_path / "grid.png") as image:
            assert image.width == image.height == 3 * 96 + 2 * 4
    with pytest.raises(NoSuchPath, match="postcard"):
        run_json("generate", "--from", "postcard", *options)
