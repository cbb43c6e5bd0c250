"""How smooth the latent space is: figures of the ways between images, checked on a decoder known by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from simile.core.errors import BadSetting, NoDecoder, NothingIndexed
from simile.core.records import FloatArray, Latent
from simile.core.settings import Settings
from simile.explore.latent.smoothness import measure_continuity, measure_paths
from simile.images.formats import Pixels
from simile.images.transforms import Preprocessing
from simile.indexer.pipeline.job import IndexRequest, index
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from tests.support.commands import run_json, run_simile


class Plain:
    """One pixel, one dimension, and both the same; `bent` goes over a detour, `deaf` sees the same in everything."""

    def __init__(self, *, bent: bool = False, deaf: bool = False) -> None:
        self.bent, self.deaf, self.preprocessing = bent, deaf, Preprocessing(image_size=2, channels=1)

    def decode(self, mu: FloatArray) -> FloatArray:
        value = np.where(mu < 0.5, 2 * mu, 2 - 2 * mu) if self.bent else mu  # bent: up to 1 and down again
        return np.repeat(value[:, :, None], 4, axis=2).reshape(-1, 1, 2, 2).astype(np.float32)

    def encode(self, batch: Pixels) -> Latent:
        mu: FloatArray = batch[:, 0, 0].astype(np.float32) / np.float32(255)
        return Latent(0 * mu + np.float32(0.5) if self.deaf else mu, None)


def ways(encoder: Plain, start: float, end: float, steps: int = 6) -> dict[str, float]:
    ends = (np.array([[value]], np.float32) for value in (start, end))
    found = measure_paths(cast(TrainedEncoder, encoder), *ends, steps=steps, interpolation="linear")
    return {name: float(values[0]) for name, values in found.items()}


def test_a_space_that_is_the_images_themselves_has_no_flaw() -> None:
    found = ways(Plain(), 0.2, 0.8)
    assert (found["path"], found["jump"]) == pytest.approx((1, 1), abs=1e-5)
    assert max(found[name] for name in ("strangeness", "of_ends", "of_fade")) < 1 / 255
    assert found["returned"] < 1 / 255 / 0.6


def test_a_detour_makes_the_path_longer() -> None:
    assert ways(Plain(bent=True), 0, 0.75, steps=4)["path"] == pytest.approx(3, abs=1e-5)  # up by 1, back by 0.5


def test_an_encoder_that_does_not_know_its_own_images_is_found_out() -> None:
    found = ways(Plain(deaf=True), 0, 1, steps=5)  # steps between the ends at 0.25, 0.5, 0.75, seen as 0.5
    assert found["strangeness"] == pytest.approx(0.5 / 3, abs=1e-5)
    assert found["returned"] == pytest.approx(0.5 / 3, abs=1e-5)
    assert found["of_ends"] == pytest.approx(0.5, abs=1e-5)


def test_ends_that_look_the_same_have_no_path() -> None:
    found = ways(Plain(), 0.5, 0.5)
    assert np.isnan([found["path"], found["jump"]]).all() and np.isfinite(found["returned"])


def test_pairs_are_of_different_images_and_the_same_for_the_same_seed(searcher: Searcher) -> None:
    told: list[object] = []
    found = measure_continuity(searcher, 40, steps=8, seed=3, on_progress=lambda *at: told.append(at[1]))
    again = measure_continuity(searcher, 40, steps=8, seed=3)
    other = measure_continuity(searcher, 40, steps=8, interpolation="spherical", seed=4)
    assert found.pairs.shape == (40, 2) and (found.pairs[:, 0] != found.pairs[:, 1]).all() and told == [32, 40]
    assert found.pairs.tolist() == again.pairs.tolist() != other.pairs.tolist()
    assert found.summarise() == again.summarise() and (found.path_measures["path"] >= 1 - 1e-5).all()
    middle, worst = found.summarise()["jump"] or (0, 0)
    assert 1 <= middle <= worst


@pytest.mark.parametrize(
    "wrong", [{"pairs": 0}, {"pairs": 10_001}, {"steps": 2}, {"steps": 257}, {"interpolation": "x"}]
)
def test_what_can_not_be_measured_is_refused_by_name(searcher: Searcher, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match="can't be"):
        measure_continuity(searcher, **wrong)


def test_without_a_decoder_it_says_what_to_do(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher.get_encoder(), "has_decoder", False)
    with pytest.raises(NoDecoder, match="--decoder-only"):
        measure_continuity(searcher)


def test_one_image_alone_has_no_way(trained_home: Settings, digits: Path) -> None:
    index(trained_home, [next(digits.iterdir())], IndexRequest())
    with Searcher(trained_home) as searcher, pytest.raises(NothingIndexed, match="two ends"):
        measure_continuity(searcher)


def test_the_command_prints_a_table_or_json(home_with_digits: Settings) -> None:
    arguments = ("continuity", "--pairs", 6, "--steps", 5, "--home", home_with_digits.home, "--device", "cpu")
    table = run_simile(*arguments)
    assert table.exit_code == 0 and "6 pairs, 5 steps, linear" in table.output and "of_fade" in table.output
    body = run_json(*arguments)
    assert len(body["pairs"]) == 6 and body["steps"] == 5
    assert body["path"]["median"] >= 1 and body["strangeness"]["p90"] >= body["strangeness"]["median"] > 0
