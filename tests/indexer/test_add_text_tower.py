"""Text towers: how their inputs are made by what the files say, and what is refused with a reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, CheckpointDamaged
from simile.core.settings import load_settings
from simile.indexer.maintenance import add_encoder as adding
from simile.indexer.maintenance.add_encoder import AddRequest, add_encoder
from simile.models.external.text_tower import TextFiles, TextTower, inspect_text
from simile.search.encoder_registry import find_encoder
from simile.store.home import Home
from tests.models.external import model_files as models
from tests.models.external.colour_home import write_preprocess
from tests.models.external.model_files import node, onnx_file, value


@pytest.fixture
def files(tmp_path: Path) -> TextFiles:
    graph = models.export_text_tower(tmp_path / "text.onnx")
    return TextFiles(graph=str(graph), tokenizer=str(models.write_tokenizer(tmp_path / "tokenizer.json")))


def load(files: TextFiles) -> TextTower:
    inspected = inspect_text(files)
    assert not isinstance(inspected, str), inspected
    return TextTower(Path(files.graph).read_bytes(), Path(files.tokenizer).read_bytes(), inspected[0])


def refuse(files: TextFiles) -> str:
    reason = inspect_text(files)
    assert isinstance(reason, str)
    return reason


def test_exports_with_and_without_mask_and_with_a_fixed_length_give_the_same_vectors(
    files: TextFiles, tmp_path: Path
) -> None:
    expected = load(files).encode(["red", "green blue", "Red " * 30])
    assert expected.shape == (3, 6) and np.abs(expected[0] - expected[2]).max() < 1e-6  # cut at eight tokens
    for masked, fixed in ((False, False), (True, True), (False, True)):
        graph = models.export_text_tower(tmp_path / f"{masked}-{fixed}.onnx", masked=masked, fixed=fixed)
        found = load(replace(files, graph=str(graph))).encode(["red", "green blue", "Red " * 30])
        assert np.abs(found - expected).max() < 1e-5, (masked, fixed)


def test_any_text_has_a_vector(files: TextFiles) -> None:
    vectors = load(files).encode(["", "\udcff red", "\0", "🟥" * 1000])
    assert vectors.shape == (4, 6) and np.isfinite(vectors).all()
    assert np.abs(vectors[1] - load(files).encode(["red"])[0]).max() < 1e-6


def test_what_the_files_do_not_say_must_be_declared(files: TextFiles, tmp_path: Path) -> None:
    silent = str(models.write_tokenizer(tmp_path / "silent.json", context=None, pad=False))
    assert "Declare it: --context 77" in refuse(replace(files, tokenizer=silent))
    unmasked = str(models.export_text_tower(tmp_path / "unmasked.onnx", masked=False))
    without_mask = replace(files, tokenizer=silent, graph=unmasked, context=8)
    assert "Declare it: --pad-id 0" in refuse(without_mask)
    declared = load(replace(without_mask, pad_id=0)).encode(["red"])
    assert np.abs(declared - load(files).encode(["red"])).max() < 1e-5
    fixed = str(models.export_text_tower(tmp_path / "fixed.onnx", fixed=True))
    assert "takes 8 tokens, not 77" in refuse(replace(files, graph=fixed, context=77))
    assert "It has no output 'other': last_hidden_state, text_embeds" in refuse(replace(files, output="other"))
    assert "name another one with --text-output" in refuse(replace(files, output="last_hidden_state"))


def test_other_graphs_and_tokenizers_are_refused(files: TextFiles, tmp_path: Path) -> None:
    image = str(models.export_onnx(models.ColourTower(), tmp_path / "image.onnx"))
    assert "Its input images is none of token ids, mask" in refuse(replace(files, graph=image))
    both = onnx_file(tmp_path / "both.onnx", inputs=[value("input_ids", ["n", "l"], 7)])
    assert "Export the text network alone" in refuse(replace(files, graph=str(both)))
    custom = onnx_file(tmp_path / "custom.onnx", [node("Evil", ["colour"], ["vectors"], "org.evil")])
    assert "custom operator org.evil.Evil" in refuse(replace(files, graph=str(custom)))
    (tmp_path / "bad.json").write_text('{"model": 1}')
    assert "The tokenizer file can't be used" in refuse(replace(files, tokenizer=str(tmp_path / "bad.json")))
    (tmp_path / "no.json").write_text("no JSON")
    assert refuse(replace(files, tokenizer=str(tmp_path / "no.json")))
    # A tokenizer of another network: no token is known.
    foreign = Path(files.tokenizer).read_text()
    for name, number in models.VOCABULARY.items():
        if number > 2:
            foreign = foreign.replace(f'"{name}"', f'"other{number}"')
    (tmp_path / "foreign.json").write_text(foreign)
    assert "the same vector for different texts" in refuse(replace(files, tokenizer=str(tmp_path / "foreign.json")))


def test_without_the_package_the_error_names_the_extra(files: TextFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert refuse(files) == "A text tower needs the package tokenizers: pip install 'simile[text]'."


def test_both_towers_must_fit_and_files_are_checked_when_loaded(
    files: TextFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "call_isolated", lambda function, item, _: function(item))
    settings = load_settings(home=tmp_path / "home", device="cpu")
    image = str(models.export_onnx(models.ColourTower(), tmp_path / "image.onnx"))
    request = AddRequest(file=image, name="colours", preprocess=str(write_preprocess(tmp_path)), text=files)
    wrong = models.export_text_tower(tmp_path / "wrong.onnx", dimensions=5)
    with pytest.raises(BadSetting, match="gives vectors of 5 values, and the image network of 6"):
        add_encoder(settings, replace(request, text=replace(files, graph=str(wrong))))
    plain = add_encoder(settings, replace(request, name="plain", text=None))
    assert not plain["text"]
    encoder = find_encoder(Home(settings.home), plain["fingerprint"], "cpu")
    with pytest.raises(BadSetting, match="has no text tower"):
        encoder.encode_texts(["red"])
    # The vectors of images are the same, and so is the fingerprint: nothing has to be indexed again.
    added = add_encoder(settings, request)
    assert added["text"] and added["fingerprint"] == plain["fingerprint"]
    folder = settings.home / "encoders" / added["fingerprint"]
    assert find_encoder(Home(settings.home), "colours", "cpu").encode_texts(["red"]).shape == (1, 6)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointDamaged, match=r"tokenizer.json was changed"):
        find_encoder(Home(settings.home), "colours", "cpu").encode_texts(["red"])
