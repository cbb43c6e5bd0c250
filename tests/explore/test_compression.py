"""Compression: whole numbers there and back, rates that hold, archives that notice damage, and what they refuse."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import ArchiveDamaged, BadSetting, EncoderMismatch, NoDecoder, TooFewPictures
from simile.core.settings import Settings
from simile.explore.arrays import ignore_progress
from simile.explore.compression.archive import extract_images, read_archive, write_archive
from simile.explore.compression.codec import CompressedImages, compress_images
from simile.explore.compression.quantization import (
    BIT_PRICE,
    FrequencyTables,
    LatentQuantiser,
    Symbols,
    round_to_symbols,
)
from simile.images.formats import Limits
from simile.models.inference.encoder import TrainedEncoder
from simile.search.searcher import Searcher
from tests.support.commands import run_json, run_simile

LIMITS = Limits(200_000_000, 50_000_000)


@pytest.fixture
def encoder(home_with_digits: Settings) -> TrainedEncoder:
    with Searcher(home_with_digits) as searcher:
        return searcher.get_encoder()


def pack(encoder: TrainedEncoder, photos: Path, **how: Any) -> CompressedImages:
    paths = sorted(map(str, photos.iterdir()))
    return compress_images(encoder, paths, LIMITS, 0, ignore_progress, **how)


def compute_loss(encoder: TrainedEncoder, made: CompressedImages, photos: Path) -> float:
    """Return the mean squared error of a value in [0, 1]."""
    seen = encoder.decode(made.quantiser.dequantise(made.symbols))
    images = np.stack([np.asarray(Image.open(path).convert("L")) for path in sorted(photos.iterdir())])
    return float(np.square(seen[:, 0] - images / 255).mean())


@pytest.mark.parametrize("spread", [0.0, 0.3, 4.0, 400.0])
def test_symbols_come_back_and_cost_what_their_tables_say(spread: float) -> None:
    random = np.random.default_rng(0)
    symbols = round_to_symbols(random.laplace(0, spread + 1e-9, (500, 6)))
    symbols[:, 3] = 7  # a dimension in which nothing differs costs nothing
    tables = FrequencyTables.fit(symbols)
    data = tables.encode(symbols)
    assert (tables.decode(data, len(symbols)) == symbols).all()
    assert len(data) <= tables.count_bits(symbols).sum() / 8 * 1.01 + 8
    assert (FrequencyTables.fit(symbols[:, :3]).count_bits(symbols[:, :3]) <= tables.count_bits(symbols) + 1e-9).all()


def test_a_quantiser_is_off_by_half_a_step_at_most() -> None:
    random = np.random.default_rng(0)
    mu = random.normal(3, 2, (200, 4)).astype(np.float32)
    sensitivity = np.array([1.0, 10.0, 0.0, 0.1])
    quantiser = LatentQuantiser.from_sensitivity(mu.mean(axis=0), sensitivity, 0.5)
    off = np.abs(quantiser.dequantise(round_to_symbols(quantiser.scale(mu))) - mu)
    assert off[:, 0].max() <= 0.2501 and off[:, 1].max() <= 0.02501 and off[:, 3].max() <= 2.501
    assert (quantiser.dequantise(quantiser.quantise(mu))[:, 2] == quantiser.centre[2]).all()


def test_a_symbol_nearer_to_0_is_taken_where_that_is_cheaper_in_all() -> None:
    scaled = np.random.default_rng(0).laplace(0, 0.3, (400, 5))
    quantiser = LatentQuantiser.from_sensitivity(np.zeros(5, np.float32), np.ones(5), 1.0)
    nearest, chosen = round_to_symbols(scaled), quantiser.quantise(scaled.astype(np.float32))
    assert (np.abs(chosen) <= np.abs(nearest)).all() and (chosen != nearest).any()

    def cost(symbols: Symbols) -> float:
        bits = FrequencyTables.fit(symbols).count_bits(symbols).sum()
        return float(np.square(symbols - scaled).sum() + BIT_PRICE * bits)

    assert cost(chosen) < 0.98 * cost(nearest)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0, 2.0])
def test_tables_cost_hardly_more_than_the_entropy_of_what_they_describe(power: float) -> None:
    values = np.arange(-40, 41)
    shares = np.exp(-(1.3 if power > 0.5 else 4.0) * np.abs(values) ** power)
    shares /= shares.sum()
    symbols = np.random.default_rng(0).choice(values, (4000, 3), p=shares).astype(np.int32)
    occurring = shares[shares > 0]
    entropy = -3 * float(occurring @ np.log2(occurring))
    assert FrequencyTables.fit(symbols).count_bits(symbols).mean() < 1.03 * entropy


def test_as_few_bytes_as_are_asked_for_and_fewer_lose_more(encoder: TrainedEncoder, digits: Path) -> None:
    losses = []
    for budget in (2.0, 4.0, 8.0):
        made = pack(encoder, digits, bytes_per_image=budget)
        assert 0.6 * budget <= len(made.encode_latents()) / len(made.names) <= budget + 0.1
        losses.append(compute_loss(encoder, made, digits))
    assert losses == sorted(losses, reverse=True) and losses[0] > 1.1 * losses[2]


def test_effort_makes_it_better_at_the_same_cost(encoder: TrainedEncoder, digits: Path) -> None:
    def cost(made: CompressedImages) -> float:
        lost = 32 * 32 * compute_loss(encoder, made, digits)
        return lost + 2 * np.log(2) / 12 * 8 * len(made.encode_latents()) / len(made.names)

    plain, refined = (pack(encoder, digits, delta=1.0, effort=effort) for effort in (0, 40))
    assert cost(refined) < cost(plain)


def test_an_archive_comes_back_as_images_of_their_size(encoder: TrainedEncoder, digits: Path, tmp_path: Path) -> None:
    made = pack(encoder, digits, delta=0.5)
    sizes = write_archive(made, tmp_path / "a.simile")
    assert sizes["all"] == (tmp_path / "a.simile").stat().st_size and sizes["latents"] == len(made.encode_latents())
    stored = read_archive(tmp_path / "a.simile")
    assert (stored.symbols == made.symbols).all() and stored.names == made.names
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / made.names[0]).write_text("mine")
    written = extract_images(encoder, stored, tmp_path / "out")
    assert (tmp_path / "out" / made.names[0]).read_text() == "mine"
    assert len(set(written)) == 120 and written[0].name == f"{Path(made.names[0]).stem}-2.png"
    with Image.open(written[5]) as image:
        assert image.size == (32, 32)


def test_what_an_archive_calls_its_images_is_never_a_path(
    encoder: TrainedEncoder, digits: Path, tmp_path: Path
) -> None:
    made = pack(encoder, digits, delta=2.0)
    names = ["../../evil.png", "/etc/passwd", "..", "a\\b\\c.png", "\0\n.png", "", *made.names[6:]]
    bad = replace(made, names=names)
    write_archive(bad, tmp_path / "a.simile")
    (tmp_path / "out").mkdir()
    written = extract_images(encoder, read_archive(tmp_path / "a.simile"), tmp_path / "out")
    assert {path.parent for path in written} == {tmp_path / "out"}
    assert [path.name for path in written[:4]] == ["evil.png", "passwd.png", "picture.png", "c.png"]


def test_damage_is_noticed_wherever_it_is(encoder: TrainedEncoder, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.simile"
    write_archive(pack(encoder, digits, delta=1.0), path)
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:  # a few bytes of a ZIP's headers say nothing
            read = read_archive(path)
        except ArchiveDamaged as error:
            assert str(path) in str(error)
        else:
            assert len(read.names) == 120
        path.write_bytes(whole[:at])
        with pytest.raises(ArchiveDamaged):
            read_archive(path)
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("hello.txt", "no archive of simile")
    with pytest.raises(ArchiveDamaged, match="pictures"):
        read_archive(path)


def test_the_commands_go_there_and_back(home_with_digits: Settings, digits: Path, tmp_path: Path) -> None:
    home = ("--home", home_with_digits.home)
    (digits / "broken.png").write_bytes(b"no picture")
    said = run_json("compress", digits, "--bytes", 6, "-o", "a.simile", *home)
    assert said["pictures"] == 120 and said["bytes_per_picture"] <= 6.1
    assert [Path(one["path"]).name for one in said["failures"]] == ["broken.png"]
    assert len(run_json("decompress", "a.simile", "-o", "out", *home)["pictures"]) == 120
    assert "needed to open it" in run_simile("compress", digits, "-o", "b.simile", *home).stdout
    for wrong in (("--bytes", 6, "--step", 1), ("--bytes", 0.5), ("--step", 0)):
        with pytest.raises(BadSetting):
            run_simile("compress", digits, *wrong, "-o", "b.simile", *home)


def test_another_encoder_or_none_is_refused(
    home_with_digits: Settings, encoder: TrainedEncoder, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pack(encoder, digits, delta=1.0)
    other = replace(made, encoder="0" * 16)
    with pytest.raises(EncoderMismatch, match="--encoder"):
        extract_images(encoder, other, tmp_path)
    with pytest.raises(TooFewPictures):
        compress_images(encoder, [str(tmp_path / "none.png")], LIMITS, 0, ignore_progress)
    monkeypatch.setattr(Searcher, "get_encoder", lambda _: encoder)
    monkeypatch.setattr(encoder, "has_decoder", False)
    with pytest.raises(NoDecoder, match="--decoder-only"):
        run_simile("compress", digits, "-o", "c.simile", "--home", home_with_digits.home)
