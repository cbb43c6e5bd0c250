"""What speaks against removing a near copy: changes of a part, and how the kept image differs as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from simile.core.settings import load_settings
from simile.dedup.cleanup.plan import plan_of
from simile.dedup.detection.job import DedupRequest, find_duplicates
from simile.dedup.grouping.findings import load_findings
from simile.dedup.grouping.groups import make_groups
from simile.dedup.grouping.pair_changes import (
    NOT_DERIVED_REASON,
    NOT_SEARCHED_REASON,
    PairChanges,
    explain_changes,
    load_changes,
)
from simile.dedup.records import sort_pair
from simile.images.matching.changes import NO_CHANGES, ChangedRegion, ImageChanges
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.images.matching.test_changes import INVOICE, PHOTO, draw_invoice, draw_photo, write_caption
from tests.support.dedup_records import make_file, make_findings, make_measurement, make_pair

BOX = (0.1, 0.1, 0.2, 0.2)
REGION = ChangedRegion(BOX, BOX)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (NO_CHANGES, ""),
        (ImageChanges(in_first=True, in_second=True, regions=(REGION, REGION)), "changed: each .* in 2 regions"),
        (ImageChanges(in_first=True, regions=(REGION,)), "the kept file has something on it .* in 1 region"),
        (ImageChanges(in_second=True, regions=(REGION,)), "it has something on it"),
        (ImageChanges(is_mostly_different=True), "a quarter"),
        (ImageChanges(is_warped=True), "tilted"),
        (ImageChanges(is_turned=True), "mirrored"),
        (ImageChanges(has_small_difference=True), "a small part"),
        (ImageChanges(has_other_tones=True), "brightness or colours"),
        (ImageChanges(first_margin="flat"), "border"),
        (ImageChanges(first_margin="content"), ""),  # the other file is a part of the kept one
        (ImageChanges(second_margin="flat"), ""),  # the other file has a border
        (ImageChanges(second_margin="content"), "shows more"),
        (ImageChanges(area_ratio=0.5), "1.4 times as large"),
    ],
)
def test_each_difference_has_its_reason(changes: ImageChanges, reason: str) -> None:
    measured = {"measurement": make_measurement("jpeg", size=(400, 300)), "width": 400, "height": 300}
    first, second = make_file(1, **measured), make_file(2, **measured)
    found = explain_changes(changes, first, second)
    if not reason:
        assert found == ""
    else:
        assert found and re.search(reason, found), found
    findings = make_findings(make_pair(1, 2), files=(first, second))
    known = PairChanges({sort_pair(first.sha256, second.sha256): changes})
    groups = make_groups(replace(findings, changes=known))
    assert bool(plan_of(findings, groups).removals) == (not reason)
    (unknown,) = make_groups(replace(findings, changes=PairChanges({})))
    assert unknown.members[1].undecided == NOT_SEARCHED_REASON


@pytest.mark.parametrize("kept", [1, 2])
def test_a_file_that_may_have_more_than_the_kept_one_waits(kept: int) -> None:
    files = [
        make_file(number, size=1000, width=300, height=300, mtime_ns=number + 5 * (number != kept)) for number in (1, 2)
    ]
    changes = ImageChanges(second_may_have_more=True)  # the first of the two may be kept alone only in doubt
    known = PairChanges({sort_pair(files[0].sha256, files[1].sha256): changes})
    (group,) = make_groups(replace(make_findings(make_pair(1, 2), files=tuple(files)), changes=known))
    assert group.kept_member.file.image_id == kept
    assert group.members[1].undecided == (NOT_DERIVED_REASON if kept == 1 else "")


def test_the_changes_are_those_of_the_pair_whichever_file_is_kept() -> None:
    first, second = make_file(1), make_file(2)
    changes = ImageChanges(in_first=True, regions=(ChangedRegion(BOX, (0.5, 0.5, 0.6, 0.6)),), area_ratio=0.25)
    known = PairChanges({sort_pair(first.sha256, second.sha256): changes})
    assert known.get(first, second) == changes
    turned = known.get(second, first)
    assert turned is not None and turned == changes.swap() and turned.swap() == changes
    assert turned.in_second and turned.area_ratio == 4


def caption(image: Image.Image) -> Image.Image:
    return write_caption(image, "SOLD")


def turn(image: Image.Image) -> Image.Image:
    return image.rotate(5)


def recompress(image: Image.Image) -> Image.Image:
    return image


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which `simile dedup` has run over an invoice, another one, and altered copies of a photo."""
    folder = tmp_path_factory.mktemp("pairs")
    images = folder / "images"
    images.mkdir()
    INVOICE.save(images / "4711.jpg", quality=88)
    draw_invoice("4713", "9.120,55").save(images / "4713.jpg", quality=88)
    PHOTO.save(images / "photo.jpg", quality=95)
    makers: tuple[Callable[[Image.Image], Image.Image], ...] = (caption, turn, recompress)
    for number, make in enumerate(makers):
        make(PHOTO).save(images / f"{make.__name__}.jpg", quality=75 - number)
    for seed in range(12):  # an encoder needs more images
        draw_photo(20 + seed).save(images / f"other-{seed:02}.jpg")
    settings = load_settings(home=folder / "home", workers=2, device="cpu")
    request = TrainingRequest(recipe="vae", overrides={"latent_dim": 8, "width": 8, "epochs": 1})
    train_on_sources(settings, [images], request, lambda *_: None)
    index(settings, [images], IndexRequest())
    find_duplicates(settings, DedupRequest(threshold=1e9))
    return Home(settings.home)


def test_a_run_stores_the_changes_and_plans_only_the_plain_copy(searched: Home) -> None:
    with Catalogue(searched) as catalogue:
        findings = load_findings(catalogue)
        groups = make_groups(findings)
        plan = plan_of(findings, groups)
    reasons = {Path(member.file.path).name: member.undecided for group in groups for member in group.members}
    assert [Path(removal.path).name for removal in plan.removals] == ["recompress.jpg"], reasons
    reasons = {Path(member.file.path).name: member.undecided for group in groups for member in group.members}
    (invoice,) = (reason for name, reason in reasons.items() if name.startswith("47") and reason)
    assert invoice.startswith("changed: each of the two has something that the other lacks")
    assert "something on it" in reasons["caption.jpg"] and "turned" in reasons["turn.jpg"]


def test_stored_changes_of_another_version_or_damaged_ones_are_not_used(searched: Home) -> None:
    path = searched.root / "dedup" / "changes.json"
    text = path.read_text("utf-8")
    assert load_changes(searched).by_hashes
    try:
        for broken in (json.dumps(json.loads(text) | {"version": 0}), text[:-9], "[]"):
            path.write_text(broken, "utf-8")
            assert not load_changes(searched).by_hashes
    finally:
        path.write_text(text, "utf-8")
