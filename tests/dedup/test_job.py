"""`simile dedup` on real files: what it finds, what it does not change, and how it continues."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, NothingIndexed
from simile.core.settings import Settings, load_settings
from simile.dedup.detection.job import DedupRequest, find_duplicates
from simile.dedup.detection.lookup import find_existing_copies, verify_copy
from simile.dedup.detection.threshold import CalibrationExample, CopyPlanter
from simile.dedup.grouping.findings import load_findings
from simile.dedup.grouping.groups import make_groups
from simile.dedup.records import Decision
from simile.images.distortions import distort
from simile.images.formats import Limits
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from simile.store.index.snapshot import IndexSegment
from tests.support.servers.postgresql import copy_home
from tests.support.synthetic_images import on_bed, scene

SCENES, BEDS, SAMPLE = 8, 2, 3
ALL_PAIRS = DedupRequest(threshold=100.0)


@pytest.fixture(autouse=True)
def _few_planted_copies_and_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simile.dedup.detection.threshold.PLANTED_ORIGINALS", SAMPLE)
    monkeypatch.setattr("simile.dedup.detection.verification.VERIFICATION_BATCH_SIZE", 32)


def ignore_progress(*_: object) -> None:
    pass


def write_photos(folder: Path) -> None:
    """Write scenes and garments on one bed, with copies of some of them in each tier."""
    folder.mkdir()
    for seed in range(SCENES):
        Image.fromarray(scene(seed, 120, 160)).save(folder / f"scene{seed:02}.png")
    for garment in range(BEDS):
        Image.fromarray(on_bed(garment, 0, 120, 160)).save(folder / f"bed{garment}.png")
    shutil.copy(folder / "scene00.png", folder / "bytes00.png")
    Image.open(folder / "scene01.png").save(folder / "pixels01.webp", lossless=True)
    Image.open(folder / "scene01.png").convert("RGBA").save(folder / "pixels01.png", compress_level=1)
    turned = Image.open(folder / "scene02.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned back
    turned.save(folder / "pixels02.png", exif=exif)
    for seed, kind in ((3, "jpeg-30"), (4, "crop-90"), (5, "blur"), (3, "grey")):
        copy = distort(scene(seed, 120, 160), kind, np.random.default_rng(seed))
        Image.fromarray(copy).save(folder / f"{kind}{seed:02}.png")


def settings_of(home: Path) -> Settings:
    """Settings with one worker, so that the features of each image are computed once."""
    return load_settings(home=home, workers=1, device="cpu")


@pytest.fixture(scope="module")
def _indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("copies")
    write_photos(root / "photos")
    settings = settings_of(root / "home")
    request = TrainingRequest(recipe="vae", overrides={"latent_dim": 16, "width": 8, "epochs": 4})
    train_on_sources(settings, [root / "photos"], request, ignore_progress)
    index(settings, [root / "photos"], IndexRequest())
    return root / "home", root / "photos"


@pytest.fixture
def settings(tmp_path: Path, _indexed: tuple[Path, Path]) -> Settings:
    """Settings of a home for this test; the photos are shared because they are only read."""
    return settings_of(copy_home(_indexed[0], tmp_path / "home"))


@pytest.fixture(scope="module")
def _searched(tmp_path_factory: pytest.TempPathFactory, _indexed: tuple[Path, Path]) -> Path:
    home = copy_home(_indexed[0], tmp_path_factory.mktemp("searched") / "home")
    find_duplicates(settings_of(home), ALL_PAIRS, ignore_progress)
    return home


@pytest.fixture
def searched(tmp_path: Path, _searched: Path) -> Settings:
    """Settings of such a home after a run with an unlimited threshold."""
    return settings_of(copy_home(_searched, tmp_path / "home"))


def list_groups(settings: Settings) -> dict[str, set[frozenset[str]]]:
    """Return the file names of each group, by tier."""
    groups: dict[str, set[frozenset[str]]] = {"bytes": set(), "pixels": set(), "near": set()}
    with Catalogue(Home(settings.home)) as catalogue:
        for group in make_groups(load_findings(catalogue)):
            groups[group.tier].add(frozenset(Path(member.file.path).name for member in group.members))
    return groups


EXPECTED = {
    "bytes": {frozenset({"scene00.png", "bytes00.png"})},
    "pixels": {frozenset({"scene01.png", "pixels01.webp", "pixels01.png"}), frozenset({"scene02.png", "pixels02.png"})},
    "near": {
        frozenset({"scene03.png", "jpeg-3003.png", "grey03.png"}),
        frozenset({"scene04.png", "crop-9004.png"}),
        frozenset({"scene05.png", "blur05.png"}),
    },
}


def test_exactly_the_copies_are_found_in_their_tiers(searched):
    assert list_groups(searched) == EXPECTED


def test_the_threshold_is_calibrated_on_copies_and_decisions_and_stored_with_the_run(settings):
    with Catalogue(Home(settings.home)) as catalogue:
        shas = sorted(image.sha256 for image in catalogue.images.get_page(2))  # of the two beds
        catalogue.duplicates.save_decisions([Decision(*shas, same=False)])
    run = find_duplicates(settings, DedupRequest(precision=0.95), ignore_progress)
    with Catalogue(Home(settings.home)) as catalogue:
        findings = load_findings(catalogue)
        kept = catalogue.runs.find_last_finished("dedup")
    assert kept.id == run == findings.run_id
    assert kept.counts["encoder"] == findings.encoder
    assert findings.calibration.precision == 0.95
    assert findings.calibration.reached_precision >= 0.95
    assert (findings.calibration.copies, findings.calibration.decisions) == (SAMPLE * 6, 1)
    groups = list_groups(settings)
    assert groups["bytes"] == EXPECTED["bytes"]
    assert groups["pixels"] == EXPECTED["pixels"]
    assert not any("bed" in name for group in groups["near"] for name in group)


def test_a_second_run_replaces_the_tiers_that_it_searches(searched):
    find_duplicates(searched, DedupRequest(tiers=("pixels",), threshold=100.0))
    assert list_groups(searched) == EXPECTED
    find_duplicates(searched, DedupRequest(tiers=("pixels", "near"), threshold=0.0))
    assert list_groups(searched)["near"] == set()


def test_the_kept_file_is_chosen_by_the_rules_of_the_last_run(settings):
    for rules, kept in [(("oldest",), "scene01.png"), (("least-compressed",), "pixels01.png")]:
        find_duplicates(settings, DedupRequest(tiers=("pixels",), threshold=1.0, keep=rules))
        with Catalogue(Home(settings.home)) as catalogue:
            names = {Path(group.kept_member.file.path).name for group in make_groups(load_findings(catalogue))}
        assert kept in names
    with pytest.raises(BadSetting, match="newest"):
        find_duplicates(settings, DedupRequest(keep=("newest",)))


def test_near_images_that_are_no_copies_are_similar(searched):
    with Catalogue(Home(searched.home)) as catalogue:
        similar = list(catalogue.duplicates.iterate_pairs(("similar",)))
    assert similar
    assert all(pair.reason.startswith("not a copy: ") for pair in similar)


def interrupt(settings: Settings, compared: int) -> None:
    """Interrupt a run after so many comparisons."""

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "comparing images" and done >= compared:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_duplicates(settings, ALL_PAIRS, stop)


def test_an_interrupted_run_continues(settings):
    seen = set()
    interrupt(settings, 64)
    assert list_groups(settings)["near"] == set()  # findings change all at once
    # The stored results are used: a changed one is in the findings.
    results = settings.home / "dedup" / "results.jsonl"
    batches = [json.loads(line) for line in results.read_text().splitlines()]
    first, second, changed = next(row for batch in batches[1:] for row in batch["compared"] if row[2]["is_copy"])
    changed["similarity"] = 0.1234
    results.write_text("".join(json.dumps(batch) + "\n" for batch in batches))
    find_duplicates(settings, replace(ALL_PAIRS, wait=5.0), lambda stage, *_: seen.add(stage))
    assert "looking for neighbours" not in seen
    assert list_groups(settings) == EXPECTED
    assert not (settings.home / "dedup" / "unfinished").exists()
    with Catalogue(Home(settings.home)) as catalogue:
        pairs = {(pair.first, pair.second): pair.agreement for pair in load_findings(catalogue).pairs}
    assert pairs[first, second] == 0.1234


def test_a_truncated_result_line_is_computed_again(settings):
    interrupt(settings, 64)
    results = settings.home / "dedup" / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-20])
    find_duplicates(settings, ALL_PAIRS, ignore_progress)
    assert list_groups(settings) == EXPECTED


def test_another_request_starts_again(settings):
    interrupt(settings, 1)
    stages = set()
    find_duplicates(settings, DedupRequest(threshold=0.0), lambda stage, *_: stages.add(stage))
    assert "looking for neighbours" in stages
    assert list_groups(settings)["near"] == set()


def add_image(settings: Settings, path: Path) -> None:
    Image.fromarray(distort(scene(5, 120, 160), "jpeg-30", np.random.default_rng(1))).save(path)
    index(settings, [path], IndexRequest())


def test_a_second_run_compares_only_new_images(settings, tmp_path):
    request, results = DedupRequest(precision=0.95), settings.home / "dedup" / "results.jsonl"
    find_duplicates(settings, request, ignore_progress)
    first_lines = results.read_text()
    add_image(settings, tmp_path / "new.png")
    fresh = settings_of(copy_home(settings.home, tmp_path / "fresh"))
    stages = set()
    find_duplicates(settings, request, lambda stage, *_: stages.add(stage))
    assert "planting copies" not in stages
    assert results.read_text().startswith(first_lines)
    with Catalogue(Home(settings.home)) as catalogue:
        new_id = max(image.id for image in catalogue.images.get_page(100))
    batches = [json.loads(line) for line in results.read_text()[len(first_lines) :].splitlines()]
    assert batches
    assert all(new_id in pair[:2] for batch in batches for pair in batch["compared"])
    assert {image_id for batch in batches for image_id, _ in batch["digests"]} <= {new_id}
    # A run that knows nothing finds the same.
    (fresh.home / "dedup" / "results.jsonl").unlink()
    find_duplicates(fresh, request, ignore_progress)
    assert list_groups(fresh) == list_groups(settings)
    assert frozenset({"scene05.png", "blur05.png", "new.png"}) in list_groups(settings)["near"]


def test_copies_are_planted_again_after_a_decision_or_for_another_request(settings):
    def runs_again(request: DedupRequest) -> bool:
        stages = set[str]()
        find_duplicates(settings, request, lambda stage, *_: stages.add(stage))
        return "planting copies" in stages

    assert runs_again(DedupRequest(precision=0.95))
    assert not runs_again(DedupRequest(precision=0.95))
    assert runs_again(DedupRequest(precision=0.9))
    with Catalogue(Home(settings.home)) as catalogue:
        shas = sorted(image.sha256 for image in catalogue.images.get_page(2))
        catalogue.duplicates.save_decisions([Decision(*shas, same=False)])
    assert runs_again(DedupRequest(precision=0.9))


def test_results_of_deleted_images_are_deleted(settings, tmp_path):
    request = DedupRequest(threshold=100.0)
    add_image(settings, tmp_path / "new.png")
    find_duplicates(settings, request, ignore_progress)
    with Catalogue(Home(settings.home)) as catalogue:
        new_id = max(image.id for image in catalogue.images.get_page(100))
        catalogue.files.delete([str(tmp_path / "new.png")])
    find_duplicates(settings, request, ignore_progress)
    batches = [json.loads(line) for line in (settings.home / "dedup" / "results.jsonl").read_text().splitlines()[1:]]
    assert not any(new_id in pair[:2] for batch in batches for pair in batch["compared"])


def test_missing_and_damaged_files_do_not_affect_other_copies(settings, _indexed, tmp_path):
    photos = tmp_path / "own"
    shutil.copytree(_indexed[1], photos)
    shutil.rmtree(settings.home)
    copy_home(_indexed[0], settings.home)
    index(settings, [photos], IndexRequest())
    with Catalogue(Home(settings.home)) as catalogue:
        catalogue.files.delete([str(path) for path in sorted(_indexed[1].iterdir())])
    (photos / "blur05.png").unlink()
    (photos / "scene04.png").write_bytes(b"not an image")
    find_duplicates(settings, ALL_PAIRS, ignore_progress)
    groups = list_groups(settings)
    assert groups["pixels"] == EXPECTED["pixels"]
    assert groups["near"] == {frozenset({"scene03.png", "jpeg-3003.png", "grey03.png"})}


def test_links_to_a_file_are_no_copies(settings, tmp_path):
    photos = tmp_path / "links"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(scene(50, 120, 160)).save(photos / name)
    (photos / "hard.png").hardlink_to(photos / "a.png")
    (photos / "0-soft.png").symlink_to(photos / "a.png")
    index(settings, [photos], IndexRequest())
    assert frozenset({"a.png", "b.png"}) in list_groups(settings)["bytes"]


@pytest.mark.parametrize(
    ("request_", "setting"),
    [
        (DedupRequest(precision=1.5), "precision"),
        (DedupRequest(threshold=-1), "threshold"),
        (DedupRequest(threshold=float("nan")), "threshold"),
    ],
)
def test_invalid_settings_are_refused(settings, request_, setting):
    with pytest.raises(BadSetting, match=setting):
        find_duplicates(settings, request_, ignore_progress)


def test_a_missing_home_is_not_created(tmp_path):
    with pytest.raises(NothingIndexed, match="simile index"):
        find_duplicates(load_settings(home=tmp_path / "none"), DedupRequest(), ignore_progress)
    assert not (tmp_path / "none").exists()


def test_the_copies_of_a_file_are_found_in_the_home(settings, _indexed):
    photos = _indexed[1]
    with Searcher(settings) as searcher:

        def tiers(name: str, data: bytes) -> list[tuple[str, str]]:
            return [(match.tier, Path(match.path).name) for match in find_existing_copies(searcher, data, name)]

        assert tiers("x", (photos / "scene00.png").read_bytes())[0] == ("bytes", "bytes00.png")
        rewrapped = photos.parent / "again.webp"
        Image.open(photos / "scene06.png").save(rewrapped, lossless=True)
        assert tiers("x", rewrapped.read_bytes()) == [("pixels", "scene06.png")]
        Image.fromarray(distort(scene(7, 120, 160), "jpeg-30", np.random.default_rng(0))).save(rewrapped)
        assert tiers("x", rewrapped.read_bytes()) == [("near", "scene07.png")]
        Image.fromarray(scene(99, 120, 160)).save(rewrapped)
        assert tiers("x", rewrapped.read_bytes()) == []


def test_two_files_are_verified_without_a_home(_indexed):
    photos = _indexed[1]
    assert verify_copy(photos / "scene05.png", photos / "blur05.png", Limits())
    assert not verify_copy(photos / "bed0.png", photos / "bed1.png", Limits())


def test_others_may_write_while_images_are_compared(settings):
    stored = []

    def decide_meanwhile(stage: str, *_: int) -> None:
        if stage == "comparing images" and not stored:
            with closing(sqlite3.connect(settings.home / "catalogue.sqlite", timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")  # raises at once where somebody writes
                stored.append(other.in_transaction)

            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_duplicates(settings, ALL_PAIRS, decide_meanwhile)
    assert stored == [True]


def test_equal_pixels_are_found_with_any_threshold(settings, tmp_path):
    photos = tmp_path / "more"
    photos.mkdir()
    Image.fromarray(scene(77, 600, 800)).save(photos / "large.jpg")  # decoded at a smaller scale to be indexed
    Image.open(photos / "large.jpg").save(photos / "large.png")
    index(settings, [photos], IndexRequest())
    find_duplicates(settings, DedupRequest(threshold=0.0))
    groups = list_groups(settings)
    assert groups["pixels"] == EXPECTED["pixels"] | {frozenset({"large.jpg", "large.png"})}
    assert groups["near"] == set()


def test_images_without_a_vector_are_not_used_for_calibration(settings, monkeypatch):
    asked = []

    def seen(planting: CopyPlanter, files: dict[int, str], _seed: int) -> list[CalibrationExample]:
        asked.extend(files)
        return [CalibrationExample(0.1, is_match=True, is_copy=True)]

    with Catalogue(Home(settings.home)) as catalogue:
        assert {3, 4} <= {located.image_id for located in catalogue.duplicates.iterate_files()}
    monkeypatch.setattr(CopyPlanter, "measure_copies", seen)
    monkeypatch.setattr(IndexSegment, "get_live_ids", lambda part: np.setdiff1d(part.index.ids, [3, 4]))
    find_duplicates(settings, DedupRequest())
    assert asked
    assert not {3, 4} & set(asked)
