"""Plans that want to destroy what they must not: each makes plan files in a small world, to be applied in turn."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.dedup_world import World, index, sha256_of
from simile.dedup.cleanup.apply import ApplyRequest, apply_plan
from simile.dedup.cleanup.plan import plan_to_json
from simile.dedup.records import CleanupPlan, Decision, Removal
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord

Maker = Callable[[World], list[Path]]
MALICIOUS: dict[str, Maker] = {}


def kind(name: str) -> Callable[[Maker], Maker]:
    def enter(make: Maker) -> Maker:
        MALICIOUS[name] = make
        return make

    return enter


def at(world: World, name: str) -> Path:
    """kept, pixels, near or alone."""
    return world.photos / "0" / "deep" / f"{name} 0.png"


def second(world: World, lines: list[Removal], decisions: list[Decision] | None = None) -> Path:
    """One more plan file."""
    path = world.folder / f"plan-{len(list(world.folder.glob('plan-*')))}.json"
    shutil.move(world.save(lines, decisions or []), path)
    return path


def raw(world: World, **changes: Any) -> Path:
    """A plan file of one true line with fields changed."""
    body = plan_to_json(CleanupPlan((world.removals[0],)))
    body["removals"][0] |= {name: value for name, value in changes.items() if name in body["removals"][0]}
    body |= {name: value for name, value in changes.items() if name in body}
    path = world.folder / "plan-raw.json"
    path.write_text(json.dumps(body))
    return path


def plant(world: World, *pairs: tuple[Path, Path]) -> None:
    """Has the home find these to be near copies too."""
    with Catalogue(world.home) as catalogue:
        rows = list(catalogue.duplicates.iterate_pairs())
        for one, other in pairs:
            shas = (sha256_of(one), sha256_of(other))
            ids = {known.image_id for known in catalogue.images.find_by_sha256(shas).values()}
            rows.append(DuplicateRecord(min(ids), max(ids), "near", 0.1, 0.9, "planted"))
            world.matches |= {shas, (shas[1], shas[0])}
        run = catalogue.runs.start("dedup", {})
        catalogue.duplicates.replace(run, rows)
        catalogue.runs.finish(run, "finished", {})


def unindexed(world: World, name: str, data: bytes) -> Path:
    path = world.folder / "outside" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@kind("keeps an unrelated picture")
def _(world: World) -> list[Path]:
    return [second(world, [world.line(at(world, "alone"), at(world, "kept"), tier)]) for tier in ("near", "pixels")]


@kind("calls two different files the same bytes")
def _(world: World) -> list[Path]:
    return [world.save([world.line(at(world, "alone"), at(world, "kept"), "bytes")])]


@kind("lies about a hash")
def _(world: World) -> list[Path]:
    kept, alone = at(world, "kept"), at(world, "alone")
    lies = {"sha256": sha256_of(kept)}, {"keep_sha256": sha256_of(alone)}
    return [second(world, [world.line(alone, kept, "bytes", **lie)]) for lie in lies]


@kind("keeps the file that goes")
def _(world: World) -> list[Path]:
    return [world.save([world.line(at(world, "alone"), at(world, "alone"))])]


@kind("keeps a hard link to the file that goes")
def _(world: World) -> list[Path]:
    link = at(world, "hard")
    os.link(at(world, "alone"), link)
    with Catalogue(world.home) as catalogue:
        index(catalogue, link)
    return [world.save([world.line(at(world, "alone"), link)])]


@kind("keeps a symbolic link to the file that goes")
def _(world: World) -> list[Path]:
    link = at(world, "soft")
    link.symlink_to(at(world, "alone"))
    with Catalogue(world.home) as catalogue:
        index(catalogue, link)
    return [world.save([world.line(at(world, "alone"), link)])]


@kind("two files go for each other")
def _(world: World) -> list[Path]:
    one, other = at(world, "kept"), at(world, "near")
    return [world.save([world.line(one, other, "near"), world.line(other, one, "near")])]


@kind("all copies go, in a circle")
def _(world: World) -> list[Path]:
    files = [at(world, "kept"), *(Path(line.path) for line in world.removals[:2])]
    return [world.save([world.line(file, files[place - 1]) for place, file in enumerate(files)])]


@kind("all copies go, each for the next, in plans of their own")
def _(world: World) -> list[Path]:
    files = [at(world, "kept"), at(world, "near"), *(Path(line.path) for line in world.removals[:3])]
    return [second(world, [world.line(file, files[place - 1], "near")]) for place, file in enumerate(files)]


@kind("a chain: near to near to near")
def _(world: World) -> list[Path]:
    plant(world, (at(world, "near"), at(world, "alone")))
    kept, near, alone = (at(world, name) for name in ("kept", "near", "alone"))
    return [world.save([world.line(kept, near, "near"), world.line(near, alone, "near")])]


@kind("a chain over two plans")
def _(world: World) -> list[Path]:
    plant(world, (at(world, "near"), at(world, "alone")))
    kept, near, alone = (at(world, name) for name in ("kept", "near", "alone"))
    for line in (*world.removals[:2],):  # no other copy of it
        Path(line.path).unlink()
    at(world, "pixels").unlink()
    return [second(world, [world.line(kept, near, "near")]), second(world, [world.line(near, alone, "near")])]


@kind("a chain through another name of a folder")
def _(world: World) -> list[Path]:
    plant(world, (at(world, "near"), at(world, "alone")))
    alias = world.photos / "alias"
    alias.symlink_to(world.photos / "0")
    near = alias / "deep" / "near 0.png"
    with Catalogue(world.home) as catalogue:
        index(catalogue, near)
    first, then = world.line(at(world, "kept"), near, "near"), world.line(at(world, "near"), at(world, "alone"), "near")
    return [world.save([first, then])]


@kind("the same file twice, for two files that go too")
def _(world: World) -> list[Path]:
    copies = [Path(line.path) for line in world.removals[:2]]
    kept = at(world, "kept")
    lines = [world.line(kept, copy) for copy in copies] + [world.line(copy, kept) for copy in copies]
    return [world.save(lines)]


@kind("is its own proof, the second time")
def _(world: World) -> list[Path]:
    one, other = at(world, "alone"), at(world, "kept")
    shas = sorted((sha256_of(one), sha256_of(other)))
    plan = [second(world, [world.line(one, other, "near")], [Decision(shas[0], shas[1], True, sha256_of(other))])]
    return plan * 3


@kind("goes against what a person decided")
def _(world: World) -> list[Path]:
    one, other = at(world, "near"), at(world, "kept")
    shas = sorted((sha256_of(one), sha256_of(other)))
    with Catalogue(world.home) as catalogue:
        catalogue.duplicates.save_decisions([Decision(shas[0], shas[1], False)])
    world.matches -= {(shas[0], shas[1]), (shas[1], shas[0])}
    return [second(world, [world.line(one, other, "near")], [Decision(shas[0], shas[1], True)])] * 2


@kind("files that are not indexed")
def _(world: World) -> list[Path]:
    data = at(world, "kept").read_bytes()
    outside, other = unindexed(world, "a.png", data), unindexed(world, "b.png", data)
    return [second(world, [world.line(outside, at(world, "kept"))]), second(world, [world.line(outside, other)])]


@kind("out of the roots by a linked folder")
def _(world: World) -> list[Path]:
    outside = unindexed(world, "a.png", at(world, "kept").read_bytes())
    link = world.photos / "linked"
    link.symlink_to(outside.parent)
    with Catalogue(world.home) as catalogue:
        index(catalogue, link / "a.png")
    return [world.save([world.line(link / "a.png", at(world, "kept"))])]


@kind("out of the roots by ..")
def _(world: World) -> list[Path]:
    unindexed(world, "a.png", at(world, "kept").read_bytes())
    return [raw(world, path=f"{world.photos}/../outside/a.png")]


@kind("a folder that became a link after it was indexed")
def _(world: World) -> list[Path]:
    line = world.line(at(world, "near"), world.photos / "copy 0.png", "near")
    shutil.copytree(world.photos / "0" / "deep", world.folder / "outside")
    shutil.move(world.photos / "0" / "deep", world.folder / "before")
    (world.photos / "0" / "deep").symlink_to(world.folder / "outside")
    return [world.save([line])]


@kind("devices, pipes and folders")
def _(world: World) -> list[Path]:
    pipe = world.photos / "pipe.png"
    os.mkfifo(pipe)
    with Catalogue(world.home) as catalogue:  # as if they had been pictures once
        for path in (Path("/dev/zero"), pipe, world.photos / "0"):
            true = at(world, "kept")
            image_id = catalogue.images.find_by_sha256([sha256_of(true)])[sha256_of(true)].image_id
            facts = next(iter(catalogue.files.get_for_images([image_id])[image_id]))
            catalogue.files.add([(image_id, facts._replace(path=str(path)))])
    sha = sha256_of(at(world, "kept"))
    odd = [Path("/dev/zero"), pipe, world.photos / "0"]
    lines = [world.line(path, at(world, "kept"), sha256=sha) for path in odd]
    keeping = [world.line(at(world, "kept"), path, keep_sha256=sha) for path in odd]
    return [second(world, lines), *(second(world, [line]) for line in keeping)]


@kind("simile's own files")
def _(world: World) -> list[Path]:
    world.home.uploads.mkdir(exist_ok=True)
    upload = world.home.uploads / "upload.png"
    shutil.copy2(at(world, "alone"), upload)
    with Catalogue(world.home) as catalogue:
        index(catalogue, upload)
    lines = [world.line(upload, at(world, "alone")), world.line(world.home.catalogue_path, at(world, "alone"))]
    return [second(world, lines), second(world, [world.line(at(world, "alone"), upload)])]


@kind("keeps what lies in the folder to move to")
def _(world: World) -> list[Path]:
    return [_kept_in(world, world.moved)]


@kind("keeps what lies in the trash")
def _(world: World) -> list[Path]:
    other = world.photos / f".Trash-{os.getuid()}"
    return [_kept_in(world, world.trash / "files"), _kept_in(world, other / "files")]


def _kept_in(world: World, folder: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copy2(at(world, "alone"), folder / "a.png")
    with Catalogue(world.home) as catalogue:
        index(catalogue, folder / "a.png")
    return second(world, [world.line(at(world, "alone"), folder / "a.png")])


@kind("keeps what an earlier plan moved away")
def _(world: World) -> list[Path]:
    line = world.removals[0]
    for other in world.removals[1:]:
        Path(other.path).unlink()
    apply_plan(world.settings, world.save([line]), ApplyRequest(action="move", target_folder=world.folder / "earlier"))
    away = next((world.folder / "earlier").rglob("*.png"))
    with Catalogue(world.home) as catalogue:
        index(catalogue, away)
    return [
        second(world, [world.line(Path(line.keep_path), away)]),
        second(world, [world.line(away, at(world, "kept"))]),
    ]


@kind("the kept file is gone, or was changed")
def _(world: World) -> list[Path]:
    line = world.removals[3]  # near
    missing = second(world, [replace(line, keep_path=str(world.photos / "gone.png"))])
    for other in world.removals[:2]:
        Path(other.path).unlink()
    at(world, "pixels").unlink()
    at(world, "kept").write_bytes(b"scribbled over")
    return [missing, world.save([line])]


@kind("the file that goes was changed since")
def _(world: World) -> list[Path]:
    line = world.removals[0]
    Path(line.path).write_bytes(at(world, "alone").read_bytes() + b"edited")
    return [world.save([line])]


@kind("an empty file")
def _(world: World) -> list[Path]:
    empty = [at(world, "empty"), at(world, "hollow")]
    for path in empty:
        path.touch()
    with Catalogue(world.home) as catalogue:
        index(catalogue, empty[0])
        index(catalogue, empty[1])
    return [world.save([world.line(*empty)])]


@kind("is no plan of this version")
def _(world: World) -> list[Path]:
    path = world.folder / "plan-odd.json"
    path.write_text("[" * 100_000)
    return [raw(world, simile_plan=2), path, world.folder, Path("/dev/zero")]


@kind("fields that are none")
def _(world: World) -> list[Path]:
    odd = [{"tier": "similar"}, {"sha256": "A" * 64}, {"path": "a.png"}, {"path": "/a\0b"}, {"path": "/\udc80"}]
    plans = []
    for number, changes in enumerate([*odd, {"removals": {}}, {"removals": [7]}]):
        plans.append(raw(world, **changes).rename(world.folder / f"plan-odd-{number}.json"))
    return plans


@kind("an archive")
def _(world: World) -> list[Path]:
    shutil.make_archive(str(world.photos / "pack"), "zip", world.photos / "0" / "deep")
    member = world.photos / "pack.zip" / "kept 0.png"
    sha = sha256_of(at(world, "kept"))
    pack = world.photos / "pack.zip"
    with Catalogue(world.home) as catalogue:
        index(catalogue, pack)
    lines = [world.line(member, at(world, "kept"), sha256=sha), world.line(at(world, "kept"), member, keep_sha256=sha)]
    return [second(world, [line]) for line in [*lines, world.line(pack, at(world, "kept"))]]
