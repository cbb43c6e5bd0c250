"""Attributes: learned, measured on what was held out, stored once for each encoder, painted, searched with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, EncoderMismatch, NoDecoder, TooFewPictures
from simile.core.settings import Settings
from simile.explore.arrays import ignore_progress
from simile.explore.attributes.directions import AttributeExamples, find_entangled_attributes, learn_attribute
from simile.explore.attributes.examples import (
    load_examples_from_metadata,
    read_examples_from_files,
    read_examples_from_labels,
)
from simile.explore.attributes.render import parse_strengths, render_attribute_sheet
from simile.search import attributes
from simile.search.attributes import Attribute
from simile.search.searcher import Searcher
from simile.store.home import Home
from tests.support.commands import run_json


def blobs(count: int = 200, seed: int = 0) -> AttributeExamples:
    """Two classes that differ by 1 along an axis where nothing varies much, and by 3 along one that varies wildly."""
    random = np.random.default_rng(seed)
    has = np.arange(count) % 2 == 0
    mu = random.normal(size=(count, 3)) * [0.5, 6, 1] + has[:, None] * np.array([1.0, 3.0, 0.0])
    return AttributeExamples(mu.astype(np.float32), has, [str(row) for row in range(count)])


def test_the_whitened_direction_ranks_better_where_something_else_varies() -> None:
    made = learn_attribute("big", "e", blobs(2000))
    assert made.raw == pytest.approx([1, 3, 0], abs=0.5)
    assert made.auc["whitened"] > made.auc["raw"] + 0.15 > 0.75
    assert 0 < made.spread["whitened"] < 0.05


def test_a_step_of_one_takes_one_mean_to_the_other_and_scores_count_steps() -> None:
    examples = blobs()
    made = learn_attribute("big", "e", examples)
    with_it, without = examples.mu[examples.is_positive].mean(0), examples.mu[~examples.is_positive].mean(0)
    assert made.shift(without, 1.0) == pytest.approx(with_it, abs=1e-5)
    scores = (np.stack([without, with_it]) - made.centre) @ made.whitened / (made.raw @ made.whitened)
    assert scores == pytest.approx([-0.5, 0.5], abs=1e-4)
    with pytest.raises(EncoderMismatch, match="3 numbers"):
        made.shift(np.zeros(4, np.float32), 1.0)


def test_copies_never_stand_on_both_sides_of_a_split() -> None:
    noise = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    has = np.arange(40) % 2 == 0
    copies = AttributeExamples(np.repeat(noise, 6, 0), np.repeat(has, 6), [str(n) for n in np.repeat(np.arange(40), 6)])
    alone = AttributeExamples(noise, has, [str(n) for n in range(40)])
    assert learn_attribute("noise", "e", copies).auc["whitened"] == pytest.approx(
        learn_attribute("noise", "e", alone).auc["whitened"], abs=0.2
    )


def test_an_image_on_both_sides_is_left_out_and_counted() -> None:
    examples = blobs(60)
    both = AttributeExamples(examples.mu, examples.is_positive, ["same", "same", *examples.digests[2:]])
    made = learn_attribute("big", "e", both)
    assert (made.contradictory, made.positives, made.negatives) == (1, 29, 29)


def test_too_few_and_names_that_are_none_are_refused() -> None:
    with pytest.raises(TooFewPictures, match="5 different positive"):
        learn_attribute("big", "e", blobs(10))
    for name in ("", "../up", "Smile", "a b", "x" * 65):
        with pytest.raises(BadSetting, match="can't be called"):
            learn_attribute(name, "e", blobs())


def test_what_is_dragged_along_is_measured_in_the_others_own_steps() -> None:
    made = learn_attribute("big", "e", blobs())
    (same,) = find_entangled_attributes(made, [made])
    assert (same.cosine, same.change) == (pytest.approx(1), pytest.approx(1))
    twice = Attribute(**{**vars(made), "name": "twice", "raw": 2 * made.raw, "whitened": 2 * made.whitened})
    (half,) = find_entangled_attributes(made, [twice])
    assert (half.cosine, half.change) == (pytest.approx(1), pytest.approx(0.5))


def test_attributes_are_stored_for_each_encoder_and_never_written_over(home: Home) -> None:
    made = learn_attribute("big", "e1", blobs())
    path = attributes.save_attribute(home, made)
    with pytest.raises(BadSetting, match="already"):
        attributes.save_attribute(home, made)
    found = attributes.load_attribute(home, "e1", "big")
    assert (found.raw == made.raw).all() and found.auc == made.auc and found.seed == made.seed
    assert attributes.list_attribute_names(home, "e2") == []
    with pytest.raises(BadSetting, match="known: big"):
        attributes.load_attribute(home, "e1", "small")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadSetting, match="damaged"):
        attributes.load_attribute(home, "e1", "big")
    attributes.remove_attribute(home, "e1", "big")
    assert attributes.list_attribute_names(home, "e1") == []


@pytest.fixture
def sides(home_with_digits: Settings, tmp_path: Path) -> tuple[Path, Path]:
    """Digits with much and with little ink, in two folders, and one file that is none."""
    folders = tmp_path / "much", tmp_path / "little"
    with Searcher(home_with_digits) as searcher:
        paths = [Path(record.paths[0]) for record in searcher.list_images(limit=120)]
    ink = [float(np.asarray(Image.open(path).convert("L")).mean()) for path in paths]
    for folder, rows in zip(folders, (np.argsort(ink)[-30:], np.argsort(ink)[:30]), strict=True):
        folder.mkdir()
        for row in rows:
            (folder / paths[row].name).write_bytes(paths[row].read_bytes())
    (folders[0] / "note.png").write_text("none")
    return folders


def test_more_of_an_attribute_is_seen_and_found(searcher: Searcher, sides: tuple[Path, Path]) -> None:
    examples = read_examples_from_files(searcher, [sides[0]], [sides[1]], ignore_progress)
    assert (len(examples.mu), examples.unreadable) == (60, 1)
    made = learn_attribute("ink", searcher.get_encoder().fingerprint, examples)
    assert made.auc["whitened"] > 0.8
    mu = searcher.by_id(1).query.mu
    brightness = [searcher.get_encoder().decode(made.shift(mu, s)[None]).mean() for s in (-2, 0, 2)]
    assert brightness[0] < brightness[1] < brightness[2]
    assert made.shift(made.shift(mu, 1.0), -1.0) == pytest.approx(mu, abs=1e-5)
    drawn = render_attribute_sheet(searcher, made, [1, 2], parse_strengths("-1..1"))
    assert drawn.startswith(b"\x89PNG")
    searcher.get_encoder().has_decoder = False
    with pytest.raises(NoDecoder, match="learned and searched with"):
        render_attribute_sheet(searcher, made, [1], [0.0])


def test_examples_come_from_what_is_said_of_the_images(searcher: Searcher) -> None:
    for image_id in range(1, 31):
        searcher.catalogue.metadata.set_for_image(image_id, {"smile": "yes"})
    examples = load_examples_from_metadata(searcher, ["smile=yes"])
    assert examples.is_positive.sum() == 30 and len(examples.mu) == 120


def test_a_class_among_labels_is_learned_against_all_others(
    home_with_digits: Settings, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    names = [path.relative_to(tmp_path).as_posix() for side in sides for path in sorted(side.glob("*[0-9].png"))]
    table = tmp_path / "labels.csv"  # three of them have no label
    table.write_text("path,label\n" + "".join(f"{name},{name.split('/')[0].title()} Ink\n" for name in names[3:]))
    with Searcher(home_with_digits) as searcher:
        plain = read_examples_from_files(searcher, [sides[0]], [sides[1]], ignore_progress)
        found = read_examples_from_labels(searcher, sides, "folders", "much", ignore_progress)
        assert (found.is_positive.sum(), len(found.mu), found.unreadable) == (30, 60, 1)
        assert sorted(found.digests) == sorted(plain.digests)
        with pytest.raises(BadSetting, match=r"label 'cat' \(known: little, much"):
            read_examples_from_labels(searcher, sides, "folders", "cat", ignore_progress)
    learn = ("attribute", "learn", "--home", home_with_digits.home)
    about = run_json(*learn, "ink", *sides, "--labels", table, "--of", "Much Ink")
    assert (about["positives"], about["negatives"]) == (27, 30) and about["auc"]["whitened"] > 0.8
    for wrong in (["x", str(sides[0])], ["x", "--labels", "folders"], ["x", "--of", "y", "--where", "a=b"]):
        with pytest.raises(BadSetting):
            run_json(*learn, *wrong)


def test_strengths_are_read_as_a_range_or_one_by_one() -> None:
    assert parse_strengths("-1..2") == [-1, 0, 1, 2]
    assert parse_strengths("-1.5,0,2") == [-1.5, 0, 2]
    for text in ("", "3..1", "a", "0..100", "nan"):
        with pytest.raises(BadSetting, match="strengths"):
            parse_strengths(text)


def test_the_commands_learn_list_show_apply_search_and_remove(
    home_with_digits: Settings, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    def run(*arguments: object) -> Any:
        return run_json(*arguments, "--home", home_with_digits.home)

    learned = run("attribute", "learn", "ink", "--positive", sides[0], "--negative", sides[1])
    assert learned["positives"] == 30 and learned["drags"] == []
    assert run("attribute", "learn", "less", "--positive", sides[1], "--negative", sides[0])["drags"]
    assert len(run("attribute", "list")["attributes"]) == 2
    shown = run("attribute", "show", "ink")["drags"]
    assert shown[0]["name"] == "less" and shown[0]["change"] == pytest.approx(-1, abs=1e-6)
    for verb, *arguments in (("apply", "--strength", 1.5), ("sheet", "--strengths", "-2..2")):
        run("attribute", verb, "ink", "--id", 1, *arguments, "-o", tmp_path / "drawn.png")
        with Image.open(tmp_path / "drawn.png") as image:
            assert image.width > 3 * 160
    plain = run("search", "--id", "1", "-k", "5")["hits"]
    found = run("search", "--id", "1", "-k", "5", "--plus", "ink", "--strength", "2")["hits"]
    assert len(found) == 5 and found != plain and 1 not in {hit["image_id"] for hit in found}
    run("attribute", "remove", "less")
    with pytest.raises(BadSetting, match="known: ink"):
        run("search", "--id", 1, "--minus", "less")
    with pytest.raises(BadSetting):
        run("attribute", "learn", "x")
