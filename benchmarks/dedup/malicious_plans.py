"""Plans that would lose images if simile applied them: each function makes plan files in a small world."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.dedup_world import World, index_file, sha256_of
from simile.dedup.cleanup.apply import ApplyRequest, apply_plan
from simile.dedup.cleanup.plan import plan_to_json
from simile.dedup.records import CleanupPlan, Decision, Removal
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import DuplicateRecord

Maker = Callable[[World], list[Path]]
MALICIOUS: dict[str, Maker] = {}


def kind(name: str) -> Callable[[Maker], Maker]:
    """Register a function that makes plans of this kind; they are applied in their order."""

    def register(make: Maker) -> Maker:
        MALICIOUS[name] = make
        return make

    return register


def get_image(world: World, name: str) -> Path:
    """Return the path of an image of the first group: kept, pixels, near or alone."""
    return world.photos / "0" / "deep" / f"{name} 0.png"


def save_plan(world: World, lines: list[Removal], decisions: list[Decision] | None = None) -> Path:
    """Write another plan file."""
    path = world.folder / f"plan-{len(list(world.folder.glob('plan-*')))}.json"
    shutil.move(world.save(lines, decisions or []), path)
    return path


def write_raw_plan(world: World, **changes: Any) -> Path:
    """Write a plan of one valid line, with changed fields."""
    body = plan_to_json(CleanupPlan((world.removals[0],)))
    body["removals"][0] |= {name: value for name, value in changes.items() if name in body["removals"][0]}
    body |= {name: value for name, value in changes.items() if name in body}
    path = world.folder / "plan-raw.json"
    path.write_text(json.dumps(body))
    return path


def add_near_pairs(world: World, *pairs: tuple[Path, Path]) -> None:
    """Store more near pairs in the home."""
    with Catalogue(world.home) as catalogue:
        rows = list(catalogue.duplicates.iterate_pairs())
        for pair in pairs:
            shas = (sha256_of(pair[0]), sha256_of(pair[1]))
            ids = {known.image_id for known in catalogue.images.find_by_sha256(shas).values()}
            rows.append(DuplicateRecord(min(ids), max(ids), "near", 0.1, 0.9, "planted"))
            world.matches |= {shas, (shas[1], shas[0])}
        run = catalogue.runs.start("dedup", {})
        catalogue.duplicates.replace(run, rows)
        catalogue.runs.finish(run, "finished", {})


def write_outside(world: World, name: str, data: bytes) -> Path:
    """Write a file outside the indexed folders."""
    path = world.folder / "outside" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@kind("keeps an unrelated image")
def _(world: World) -> list[Path]:
    return [
        save_plan(world, [world.make_removal(get_image(world, "alone"), get_image(world, "kept"), tier)])
        for tier in ("near", "pixels")
    ]


@kind("claims that two different files have the same bytes")
def _(world: World) -> list[Path]:
    return [world.save([world.make_removal(get_image(world, "alone"), get_image(world, "kept"), "bytes")])]


@kind("has a wrong hash")
def _(world: World) -> list[Path]:
    kept, alone = get_image(world, "kept"), get_image(world, "alone")
    lies = {"sha256": sha256_of(kept)}, {"keep_sha256": sha256_of(alone)}
    return [save_plan(world, [world.make_removal(alone, kept, "bytes", **lie)]) for lie in lies]


@kind("keeps the removed file")
def _(world: World) -> list[Path]:
    return [world.save([world.make_removal(get_image(world, "alone"), get_image(world, "alone"))])]


@kind("keeps a hard link to the removed file")
def _(world: World) -> list[Path]:
    link = get_image(world, "hard")
    os.link(get_image(world, "alone"), link)
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, link)
    return [world.save([world.make_removal(get_image(world, "alone"), link)])]


@kind("keeps a symbolic link to the removed file")
def _(world: World) -> list[Path]:
    link = get_image(world, "soft")
    link.symlink_to(get_image(world, "alone"))
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, link)
    return [world.save([world.make_removal(get_image(world, "alone"), link)])]


@kind("removes two files, each as a copy of the other")
def _(world: World) -> list[Path]:
    first, second = get_image(world, "kept"), get_image(world, "near")
    return [world.save([world.make_removal(first, second, "near"), world.make_removal(second, first, "near")])]


@kind("removes all copies, in a circle")
def _(world: World) -> list[Path]:
    files = [get_image(world, "kept"), *(Path(line.path) for line in world.removals[:2])]
    return [world.save([world.make_removal(file, files[position - 1]) for position, file in enumerate(files)])]


@kind("removes all copies, each as a copy of the next, in separate plans")
def _(world: World) -> list[Path]:
    files = [get_image(world, "kept"), get_image(world, "near"), *(Path(line.path) for line in world.removals[:3])]
    return [
        save_plan(world, [world.make_removal(file, files[position - 1], "near")]) for position, file in enumerate(files)
    ]


@kind("a chain: near to near to near")
def _(world: World) -> list[Path]:
    add_near_pairs(world, (get_image(world, "near"), get_image(world, "alone")))
    kept, near, alone = (get_image(world, name) for name in ("kept", "near", "alone"))
    return [world.save([world.make_removal(kept, near, "near"), world.make_removal(near, alone, "near")])]


@kind("a chain over two plans")
def _(world: World) -> list[Path]:
    add_near_pairs(world, (get_image(world, "near"), get_image(world, "alone")))
    kept, near, alone = (get_image(world, name) for name in ("kept", "near", "alone"))
    for line in world.removals[:2]:  # no other copy may exist
        Path(line.path).unlink()
    get_image(world, "pixels").unlink()
    return [
        save_plan(world, [world.make_removal(kept, near, "near")]),
        save_plan(world, [world.make_removal(near, alone, "near")]),
    ]


@kind("a chain through another name of a folder")
def _(world: World) -> list[Path]:
    add_near_pairs(world, (get_image(world, "near"), get_image(world, "alone")))
    alias = world.photos / "alias"
    alias.symlink_to(world.photos / "0")
    near = alias / "deep" / "near 0.png"
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, near)
    removals = [
        world.make_removal(get_image(world, "kept"), near, "near"),
        world.make_removal(get_image(world, "near"), get_image(world, "alone"), "near"),
    ]
    return [world.save(removals)]


@kind("keeps one file and removes it too")
def _(world: World) -> list[Path]:
    copies = [Path(line.path) for line in world.removals[:2]]
    kept = get_image(world, "kept")
    lines = [world.make_removal(kept, copy) for copy in copies] + [world.make_removal(copy, kept) for copy in copies]
    return [world.save(lines)]


@kind("proves itself when it is applied again")
def _(world: World) -> list[Path]:
    first, second = get_image(world, "alone"), get_image(world, "kept")
    shas = sorted((sha256_of(first), sha256_of(second)))
    plan = [
        save_plan(
            world, [world.make_removal(first, second, "near")], [Decision(shas[0], shas[1], True, sha256_of(second))]
        )
    ]
    return plan * 3


@kind("contradicts the decision of a user")
def _(world: World) -> list[Path]:
    first, second = get_image(world, "near"), get_image(world, "kept")
    shas = sorted((sha256_of(first), sha256_of(second)))
    with Catalogue(world.home) as catalogue:
        catalogue.duplicates.save_decisions([Decision(shas[0], shas[1], False)])
    world.matches -= {(shas[0], shas[1]), (shas[1], shas[0])}
    return [save_plan(world, [world.make_removal(first, second, "near")], [Decision(shas[0], shas[1], True)])] * 2


@kind("removes or keeps files that are not indexed")
def _(world: World) -> list[Path]:
    data = get_image(world, "kept").read_bytes()
    outside, other = write_outside(world, "a.png", data), write_outside(world, "b.png", data)
    return [
        save_plan(world, [world.make_removal(outside, get_image(world, "kept"))]),
        save_plan(world, [world.make_removal(outside, other)]),
    ]


@kind("leaves the roots through a linked folder")
def _(world: World) -> list[Path]:
    outside = write_outside(world, "a.png", get_image(world, "kept").read_bytes())
    link = world.photos / "linked"
    link.symlink_to(outside.parent)
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, link / "a.png")
    return [world.save([world.make_removal(link / "a.png", get_image(world, "kept"))])]


@kind("leaves the roots through ..")
def _(world: World) -> list[Path]:
    write_outside(world, "a.png", get_image(world, "kept").read_bytes())
    return [write_raw_plan(world, path=f"{world.photos}/../outside/a.png")]


@kind("uses a folder that was replaced by a link")
def _(world: World) -> list[Path]:
    line = world.make_removal(get_image(world, "near"), world.photos / "copy 0.png", "near")
    shutil.copytree(world.photos / "0" / "deep", world.folder / "outside")
    shutil.move(world.photos / "0" / "deep", world.folder / "before")
    (world.photos / "0" / "deep").symlink_to(world.folder / "outside")
    return [world.save([line])]


@kind("removes or keeps devices, pipes and folders")
def _(world: World) -> list[Path]:
    pipe = world.photos / "pipe.png"
    os.mkfifo(pipe)
    with Catalogue(world.home) as catalogue:  # as if they had been images before
        for path in (Path("/dev/zero"), pipe, world.photos / "0"):
            sha = sha256_of(get_image(world, "kept"))
            image_id = catalogue.images.find_by_sha256([sha])[sha].image_id
            record = next(iter(catalogue.files.get_for_images([image_id])[image_id]))
            catalogue.files.add([(image_id, record._replace(path=str(path)))])
    sha = sha256_of(get_image(world, "kept"))
    odd = [Path("/dev/zero"), pipe, world.photos / "0"]
    lines = [world.make_removal(path, get_image(world, "kept"), sha256=sha) for path in odd]
    keeping = [world.make_removal(get_image(world, "kept"), path, keep_sha256=sha) for path in odd]
    return [save_plan(world, lines), *(save_plan(world, [line]) for line in keeping)]


@kind("removes or keeps files of simile")
def _(world: World) -> list[Path]:
    world.home.uploads.mkdir(exist_ok=True)
    upload = world.home.uploads / "upload.png"
    shutil.copy2(get_image(world, "alone"), upload)
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, upload)
    lines = [
        world.make_removal(upload, get_image(world, "alone")),
        world.make_removal(world.home.catalogue_path, get_image(world, "alone")),
    ]
    return [save_plan(world, lines), save_plan(world, [world.make_removal(get_image(world, "alone"), upload)])]


@kind("keeps a file in the target folder")
def _(world: World) -> list[Path]:
    return [keep_copy_in(world, world.moved)]


@kind("keeps a file in the trash")
def _(world: World) -> list[Path]:
    other = world.photos / f".Trash-{os.getuid()}"
    return [keep_copy_in(world, world.trash / "files"), keep_copy_in(world, other / "files")]


def keep_copy_in(world: World, folder: Path) -> Path:
    """Make a plan that keeps a copy in this folder."""
    folder.mkdir(parents=True)
    shutil.copy2(get_image(world, "alone"), folder / "a.png")
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, folder / "a.png")
    return save_plan(world, [world.make_removal(get_image(world, "alone"), folder / "a.png")])


@kind("keeps a file that an earlier plan moved")
def _(world: World) -> list[Path]:
    line = world.removals[0]
    for other in world.removals[1:]:
        Path(other.path).unlink()
    apply_plan(world.settings, world.save([line]), ApplyRequest(action="move", target_folder=world.folder / "earlier"))
    away = next((world.folder / "earlier").rglob("*.png"))
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, away)
    return [
        save_plan(world, [world.make_removal(Path(line.keep_path), away)]),
        save_plan(world, [world.make_removal(away, get_image(world, "kept"))]),
    ]


@kind("keeps a file that is missing or changed")
def _(world: World) -> list[Path]:
    line = world.removals[3]  # near
    missing = save_plan(world, [replace(line, keep_path=str(world.photos / "gone.png"))])
    for other in world.removals[:2]:
        Path(other.path).unlink()
    get_image(world, "pixels").unlink()
    get_image(world, "kept").write_bytes(b"scribbled over")
    return [missing, world.save([line])]


@kind("removes a file that was changed")
def _(world: World) -> list[Path]:
    line = world.removals[0]
    Path(line.path).write_bytes(get_image(world, "alone").read_bytes() + b"edited")
    return [world.save([line])]


@kind("removes an empty file")
def _(world: World) -> list[Path]:
    empty = [get_image(world, "empty"), get_image(world, "hollow")]
    for path in empty:
        path.touch()
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, empty[0])
        index_file(catalogue, empty[1])
    return [world.save([world.make_removal(*empty)])]


@kind("is not a plan of this version")
def _(world: World) -> list[Path]:
    path = world.folder / "plan-odd.json"
    path.write_text("[" * 100_000)
    return [write_raw_plan(world, simile_plan=2), path, world.folder, Path("/dev/zero")]


@kind("has invalid fields")
def _(world: World) -> list[Path]:
    odd = [{"tier": "similar"}, {"sha256": "A" * 64}, {"path": "a.png"}, {"path": "/a\0b"}, {"path": "/\udc80"}]
    plans = []
    for number, changes in enumerate([*odd, {"removals": {}}, {"removals": [7]}]):
        plans.append(write_raw_plan(world, **changes).rename(world.folder / f"plan-odd-{number}.json"))
    return plans


@kind("removes or keeps archives and their members")
def _(world: World) -> list[Path]:
    shutil.make_archive(str(world.photos / "pack"), "zip", world.photos / "0" / "deep")
    member = world.photos / "pack.zip" / "kept 0.png"
    sha = sha256_of(get_image(world, "kept"))
    pack = world.photos / "pack.zip"
    with Catalogue(world.home) as catalogue:
        index_file(catalogue, pack)
    lines = [
        world.make_removal(member, get_image(world, "kept"), sha256=sha),
        world.make_removal(get_image(world, "kept"), member, keep_sha256=sha),
    ]
    return [save_plan(world, [line]) for line in [*lines, world.make_removal(pack, get_image(world, "kept"))]]
