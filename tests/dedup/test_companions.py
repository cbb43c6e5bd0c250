"""What goes along with a removed image: sidecars and partners move, ratings and keywords reach the kept file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from simile.core.errors import BadSetting, HomeError, UnreadableImage
from simile.core.settings import Settings, load_settings
from simile.dedup.cleanup.apply import ApplyRequest, ApplyResult, apply_plan
from simile.dedup.cleanup.companions import CompanionFinder, add_companions
from simile.dedup.cleanup.file_ops import identify_file
from simile.dedup.cleanup.journal import CleanupAction, get_journals_folder
from simile.dedup.cleanup.plan import parse_plan, plan_to_json, read_plan, write_plan
from simile.dedup.cleanup.undo import undo_journal
from simile.dedup.records import CleanupPlan, Companion, Removal
from simile.images.encoding import encode_png
from simile.images.metadata.sidecars import add_to_xmp
from simile.images.metadata.xmp import read_xmp
from simile.store.catalogue.catalogue import Catalogue
from simile.store.home import Home
from tests.support.dedup_records import index_file, make_removal

ENCODER = "e" * 64


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Best a.png; a copy sub/a.png with two sidecars, a raw file and a film."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode_png(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)))
    shutil.copy(folder / "a.png", folder / "sub/a.png")
    (folder / "sub/a.xmp").write_bytes(add_to_xmp(None, "", 4, ["sea"]))
    (folder / "sub/a.png.xmp").write_bytes(add_to_xmp(None, "", None, ["sea", "Ümläut"]))
    for name in ("a.CR3", "a.MOV", "a.txt"):
        (folder / "sub" / name).write_text(name)
    return folder


@pytest.fixture
def settings(home: Home, photos: Path) -> Iterator[Settings]:
    """A home with the images."""
    with Catalogue(home) as catalogue:
        catalogue.encoders.register(ENCODER, "toy", "vae", dimensions=1)
        catalogue.encoders.activate(ENCODER)
        for path in sorted(photos.rglob("*.png")):
            index_file(catalogue, path, ENCODER)
    yield load_settings(home=home.root, device="cpu")


def make_plan(settings: Settings, path: Path, kept: Path) -> CleanupPlan:
    line = make_removal(str(path), identify_file(path).sha256, str(kept), identify_file(kept).sha256, "bytes")
    with Catalogue(Home(settings.home)) as catalogue:
        return add_companions(CleanupPlan((line,)), catalogue)


def apply(settings: Settings, plan: CleanupPlan, photos: Path, action: CleanupAction = "move") -> ApplyResult:
    path = photos.parent / "plan.json"
    write_plan(path, plan)
    return apply_plan(settings, path, ApplyRequest(action=action, target_folder=photos.parent / "gone"))


def describe(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_values(path: Path) -> tuple[object, object]:
    found = read_xmp(path.read_bytes())
    return found.get("rating"), found.get("keywords")


def test_sidecars_and_partners_move_and_values_reach_the_kept_file(settings: Settings, photos: Path) -> None:
    before = describe(photos)
    plan = make_plan(settings, photos / "sub/a.png", photos / "a.png")
    assert [Path(companion.path).name for companion in plan.removals[0].companions] == [
        "a.CR3", "a.MOV", "a.png.xmp", "a.xmp",
    ]  # fmt: skip
    assert (plan.removals[0].rating, plan.removals[0].keywords) == (4, ("sea", "Ümläut"))
    result = apply(settings, plan, photos)
    assert (result.applied, result.companions, result.sidecars_written, result.set_aside) == (1, 4, 1, [])
    assert sorted(describe(photos)) == ["a.png", "a.png.xmp", "sub/a.txt"]
    assert read_values(photos / "a.png.xmp") == (4, ("sea", "Ümläut"))
    assert undo_journal(settings).set_aside == []
    assert describe(photos) == before


def test_a_sidecar_of_the_kept_file_gets_its_bytes_back(settings: Settings, photos: Path) -> None:
    own = photos / "a.xmp"
    own.write_text(
        '<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF '
        'xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description xmlns:xap="http://ns.adobe.com/xap/1.0/" '
        'xmlns:darktable="http://darktable.sf.net/" xap:Rating="2" darktable:history="7"/></r:RDF></x:xmpmeta>'
    )
    own.chmod(0o600)
    before, status = describe(photos), own.stat()
    apply(settings, make_plan(settings, photos / "sub/a.png", photos / "a.png"), photos)
    assert read_values(own) == (2, ("sea", "Ümläut")) and b'darktable:history="7"' in own.read_bytes()
    undo_journal(settings)
    assert describe(photos) == before
    assert (own.stat().st_mtime_ns, own.stat().st_mode) == (status.st_mtime_ns, status.st_mode)


def test_what_an_image_that_stays_uses_is_not_taken_away(settings: Settings, photos: Path) -> None:
    (photos / "sub/a.jpg").write_bytes(b"another image of this name")
    plan = make_plan(settings, photos / "sub/a.png", photos / "a.png")
    assert [Path(companion.path).name for companion in plan.removals[0].companions] == ["a.png.xmp"]
    forged = Companion(str(photos / "sub/a.CR3"), identify_file(photos / "sub/a.CR3").sha256)
    line = Removal(**{**vars(plan.removals[0]), "companions": (forged,)})
    assert apply(settings, CleanupPlan((line,)), photos).companions == 0
    assert (photos / "sub/a.CR3").is_file()


def test_links_leave_everything_beside_the_file(settings: Settings, photos: Path) -> None:
    before = describe(photos)
    result = apply(settings, make_plan(settings, photos / "sub/a.png", photos / "a.png"), photos, "hardlink")
    assert (result.applied, result.companions, result.sidecars_written) == (1, 0, 0)
    assert describe(photos) == before


def test_a_changed_companion_keeps_its_image(settings: Settings, photos: Path) -> None:
    plan = make_plan(settings, photos / "sub/a.png", photos / "a.png")
    (photos / "sub/a.xmp").write_bytes(add_to_xmp(None, "", 5, []))
    before = describe(photos)
    result = apply(settings, plan, photos)
    assert result.applied == 0 and "a.xmp, which goes along with it" in result.set_aside[0].reason
    assert describe(photos) == before


def test_a_damaged_sidecar_of_the_kept_file_keeps_the_copy(settings: Settings, photos: Path) -> None:
    (photos / "a.png.xmp").write_text("<no xmp")
    before = describe(photos)
    result = apply(settings, make_plan(settings, photos / "sub/a.png", photos / "a.png"), photos)
    assert result.applied == 0 and "a.png.xmp, can't be written" in result.set_aside[0].reason
    assert describe(photos) == before


def test_a_plan_applied_again_moves_the_rest_of_an_interrupted_run(settings: Settings, photos: Path) -> None:
    plan = make_plan(settings, photos / "sub/a.png", photos / "a.png")
    bare = Removal(**{**vars(plan.removals[0]), "companions": ()})
    assert apply(settings, CleanupPlan((bare,)), photos).companions == 0
    again = apply(settings, plan, photos)
    assert (again.already, again.companions, again.set_aside) == (1, 4, [])
    (photos / "a.png").unlink()  # nothing is left to do, so the kept file is not read
    assert apply(settings, plan, photos).set_aside == []


def test_a_journal_writes_sidecars_only(settings: Settings, photos: Path) -> None:
    apply(settings, make_plan(settings, photos / "sub/a.png", photos / "a.png"), photos)
    journal = next(get_journals_folder(Home(settings.home)).iterdir())
    journal.write_text(journal.read_text().replace("/a.png.xmp", "/a.png"))
    with pytest.raises(HomeError, match="no sidecar"):
        undo_journal(settings)


def test_an_indexed_raw_file_is_an_image_of_its_own(tmp_path: Path) -> None:
    for name in ("b.jpg", "b.dng", "b.xmp", "b.jpg.xmp"):
        (tmp_path / name).touch()
    raw = str(tmp_path / "b.dng")
    find = CompanionFinder(lambda path: path == raw).find
    assert [path.name for path in find(tmp_path / "b.jpg")] == ["b.jpg.xmp"]
    assert [path.name for path in find(tmp_path / "b.jpg", {Path(raw)})] == ["b.jpg.xmp", "b.xmp"]
    assert [path.name for path in CompanionFinder(lambda _: False).find(tmp_path / "b.dng")] == []


def test_plans_with_companions_are_read_as_written_and_checked(settings: Settings, photos: Path) -> None:
    plan = make_plan(settings, photos / "sub/a.png", photos / "a.png")
    path = photos.parent / "plan.json"
    write_plan(path, plan)
    assert read_plan(path) == plan
    for field, value in (("companions", [{"path": "a"}]), ("rating", 6), ("keywords", "sea")):
        body = plan_to_json(plan)
        body["removals"][0][field] = value
        with pytest.raises(BadSetting, match=field):
            parse_plan(body, "plan.json")


def test_documents_that_are_no_xmp_are_refused() -> None:
    for document in (b"", b"<a/>", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', b"\xff\xfe<", b"x" * (3 << 20)):
        with pytest.raises(UnreadableImage):
            add_to_xmp(document, "a.xmp", 1, ["b"])


def test_ratings_and_keywords_are_added_in_the_forms_of_xmp() -> None:
    first = add_to_xmp(None, "a.xmp", 3, ["one", "<two> & three"])
    second = add_to_xmp(first, "a.xmp", 5, ["one", "four"])
    assert read_xmp(second)["rating"] == 5
    assert read_xmp(second)["keywords"] == ("<two> & three", "four", "one")
    element = first.replace(b' xmp:Rating="3"', b"").replace(b"<dc:subject>", b"<xmp:Rating>1</xmp:Rating><dc:subject>")
    assert read_xmp(add_to_xmp(element, "a.xmp", 2, []))["rating"] == 2
