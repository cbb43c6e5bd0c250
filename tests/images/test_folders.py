"""Which files "these folders" mean: order, oddities, and links that lead round and round."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from simile.core.errors import NoSuchPath
from simile.images.sources.folders import WalkResult, describe_kinds
from simile.images.sources.paths import PathPatterns
from simile.images.sources.sources import is_path_missing, walk_sources

PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def put(path: Path, data: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def paths(found: WalkResult, below: Path) -> list[str]:
    return [os.path.relpath(file.path, below) for file in found.files]


def failures(found: WalkResult) -> dict[str, str]:
    return {Path(failure.path).name: failure.reason for failure in found.failures}


# Order and kinds


def test_files_come_sorted_by_path(photos: Path) -> None:
    names = ["b.png", "a/z.png", "a/b/c.png", "A.png", "a.png", "10.png", "9.png"]
    for name in names:
        put(photos / name)
    found = walk_sources([photos])
    assert paths(found, photos) == sorted(names)
    assert (found.failures, found.ignored_count) == ([], 0)


def test_arguments_come_in_the_order_they_were_given(photos: Path) -> None:
    for name in ("a/1.png", "b/2.png", "b/1.png", "c.png"):
        put(photos / name)
    found = walk_sources([photos / "c.png", photos / "b", photos / "a"])
    assert paths(found, photos) == ["c.png", "b/1.png", "b/2.png", "a/1.png"]


def test_every_file_comes_with_its_size_and_time(photos: Path) -> None:
    file = put(photos / "a.png", PNG + b"more")
    os.utime(file, ns=(1, 1_700_000_000_123_456_789))
    facts = walk_sources([photos]).files[0]
    assert (facts.path, facts.size, facts.mtime_ns) == (str(file), 36, 1_700_000_000_123_456_789)


def test_paths_are_absolute_whatever_the_argument_looked_like(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(photos / "a.png")
    monkeypatch.chdir(photos)
    for argument in (".", "a.png", "../photos", "./x/../a.png"):
        assert [facts.path for facts in walk_sources([Path(argument)]).files] == [str(file)]


def test_hidden_files_and_folders_are_passed_over_without_a_word(photos: Path) -> None:
    put(photos / ".hidden.png")
    put(photos / ".thumbnails" / "a.png")
    put(photos / "._a.png")
    put(photos / "a.png")
    found = walk_sources([photos])
    assert (paths(found, photos), found.failures, found.ignored_count) == (["a.png"], [], 0)


def test_hidden_ones_are_taken_when_they_are_named(photos: Path) -> None:
    put(photos / ".hidden.png")
    put(photos / ".folder" / "a.png")
    assert paths(walk_sources([photos / ".hidden.png", photos / ".folder"]), photos) == [".hidden.png", ".folder/a.png"]


def test_other_kinds_of_files_are_ignored_and_counted(photos: Path) -> None:
    put(photos / "a.png")
    put(photos / "notes.txt", b"some words")
    put(photos / "film.mp4", bytes(4) + b"ftypisom" + bytes(20))
    put(photos / "below" / "MORE.TXT", b"some words")
    put(photos / "empty", b"")
    put(photos / "b.a-long-tail", b"some words")
    found = walk_sources([photos])
    assert (paths(found, photos), found.failures, found.ignored_count) == (["a.png"], [], 5)
    assert found.ignored_kinds == {"txt": 2, "mp4": 1, "other": 2}
    assert describe_kinds(found.ignored_kinds) == "2 other, 2 txt, 1 mp4"
    assert describe_kinds({f"k{number}": 10 - number for number in range(9)}).endswith(", 5 k5, 9 of further kinds")


def test_a_suffix_calls_a_file_an_image_in_any_case_even_a_broken_one(photos: Path) -> None:
    for name in ("a.JPG", "b.Jpeg", "c.HEIC", "d.png"):
        put(photos / name, b"not a picture at all")
    assert paths(walk_sources([photos]), photos) == ["a.JPG", "b.Jpeg", "c.HEIC", "d.png"]


def test_images_without_a_telling_suffix_are_found_by_their_first_bytes(photos: Path) -> None:
    put(photos / "IMG_0001")
    put(photos / "download.part", b"\xff\xd8\xff\xe0" + bytes(28))
    put(photos / "words")
    (photos / "words").write_bytes(b"nothing to see")
    found = walk_sources([photos])
    assert (paths(found, photos), found.ignored_count) == (["IMG_0001", "download.part"], 1)


def test_a_file_that_is_named_is_always_taken(photos: Path) -> None:
    notes = put(photos / "notes.txt", b"some words")
    assert paths(walk_sources([notes]), photos) == ["notes.txt"]


@pytest.mark.parametrize("folder_first", [True, False])
def test_a_named_file_is_taken_though_its_folder_is_named_too(photos: Path, folder_first: bool) -> None:
    notes = put(photos / "notes.txt", b"some words")
    found = walk_sources([photos, notes] if folder_first else [notes, photos])
    assert (paths(found, photos), found.ignored_count) == (["notes.txt"], 0)


def test_a_file_through_two_arguments_comes_once(photos: Path) -> None:
    file, inner = put(photos / "a.png"), put(photos / "b" / "c.png")
    found = walk_sources([inner, photos, photos, file, photos / "b", photos / ".." / "photos"])
    assert paths(found, photos) == ["b/c.png", "a.png"]


def test_an_empty_folder_gives_nothing(photos: Path) -> None:
    assert walk_sources([photos]) == WalkResult()
    assert walk_sources([]) == WalkResult()


def test_cyrillic_names_with_spaces_are_names_like_any_other(photos: Path) -> None:
    put(photos / "Мои фото" / "Лето 2024.png")
    put(photos / "Мои фото" / "кот и  пёс.jpeg")
    found = walk_sources([photos / "Мои фото"])
    assert paths(found, photos) == ["Мои фото/Лето 2024.png", "Мои фото/кот и  пёс.jpeg"]
    assert found.failures == []


def test_a_source_that_does_not_exist_is_an_error_with_its_path(photos: Path) -> None:
    file = put(photos / "a.png")
    for missing in (photos / "no such folder", file / "below a file", photos / ("x" * 300)):
        with pytest.raises(NoSuchPath) as caught:
            walk_sources([photos, missing])
        assert caught.value.path == missing


def test_folders_nested_deeper_than_python_calls_are_walked(photos: Path) -> None:
    put(photos / "a.png")
    put(photos / Path(*["d"] * 400) / "deep.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        found = walk_sources([photos])
    finally:
        sys.setrecursionlimit(limit)
    assert [Path(file.path).name for file in found.files] == ["a.png", "deep.png"]


# Links


def test_a_linked_file_comes_under_both_names(photos: Path) -> None:
    put(photos / "a.png")
    (photos / "b.png").symlink_to("a.png")
    assert paths(walk_sources([photos]), photos) == ["a.png", "b.png"]


def test_linked_folders_are_followed(photos: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.png")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    assert paths(walk_sources([photos]), photos) == ["link/a.png"]


def test_a_folder_with_links_to_it_is_entered_once_and_by_its_real_name(photos: Path) -> None:
    put(photos / "m" / "a.png")
    for link, target in (("z", "m"), ("b", "m"), ("y", photos / "m"), ("c", "b")):
        (photos / link).symlink_to(target)
    assert paths(walk_sources([photos]), photos) == ["m/a.png"]


def test_a_folder_with_links_to_it_from_another_source_is_entered_by_its_real_name(photos: Path) -> None:
    put(photos / "s" / "m" / "a.png")
    (photos / "a").mkdir()
    (photos / "a" / "link").symlink_to(photos / "s" / "m")
    (photos / "b").symlink_to("s/m")
    for sources in (["a", "s"], ["s", "a"], ["b", "s"], ["b", "s/m"], ["a", "b", "s"]):
        assert paths(walk_sources([photos / name for name in sources]), photos) == ["s/m/a.png"], sources
    assert paths(walk_sources([str(photos / "*")]), photos) == ["s/m/a.png"]
    assert paths(walk_sources([photos / "a"]), photos) == ["a/link/a.png"]
    (photos / "c").symlink_to("s")
    assert paths(walk_sources([photos / "c", photos / "s" / "m"]), photos) == ["s/m/a.png"]
    assert paths(walk_sources([photos / "b", photos / "c"]), photos) == ["b/a.png"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (PathPatterns(), ["link/a.png"]),
        (PathPatterns(include=("*.png",)), ["link/a.png"]),
        (PathPatterns(exclude=("link/",)), []),
    ],
)
def test_a_folder_that_is_not_entered_itself_is_entered_by_a_link(
    photos: Path, patterns: PathPatterns, found: list[str]
) -> None:
    put(photos / ".hidden" / "a.png")
    (photos / "link").symlink_to(".hidden")
    assert paths(walk_sources([photos], patterns=patterns), photos) == found


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (PathPatterns(exclude=("m/",)), ["link/a.png"]),
        (PathPatterns(exclude=("link/",)), ["m/a.png"]),
        (PathPatterns(include=("link/",)), ["link/a.png"]),
        (PathPatterns(include=("link/", "m/")), ["m/a.png"]),
        (PathPatterns(include=("*.png",)), ["m/a.png"]),
    ],
)
def test_patterns_decide_which_name_of_a_folder_counts(photos: Path, patterns: PathPatterns, found: list[str]) -> None:
    put(photos / "m" / "a.png")
    (photos / "link").symlink_to("m")
    assert paths(walk_sources([photos], patterns=patterns), photos) == found


def test_a_source_that_is_a_link_to_a_folder_is_walked_under_its_own_name(photos: Path, tmp_path: Path) -> None:
    put(photos / "a.png")
    link = tmp_path / "link"
    link.symlink_to(photos)
    assert [facts.path for facts in walk_sources([link]).files] == [str(link / "a.png")]


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_links_to_the_source_and_to_what_holds_it_end_there(photos: Path, target: str) -> None:
    put(photos.parent / "outside.png")
    put(photos / "inner" / "a.png")
    (photos / "loop").symlink_to(target)
    (photos / "inner" / "loop").symlink_to(photos / target)
    found = walk_sources([photos])
    assert (paths(found, photos), found.failures) == (["inner/a.png"], [])


def test_a_link_out_that_leads_to_a_link_back_ends(photos: Path, tmp_path: Path) -> None:
    put(photos / "a.png")
    put(tmp_path / "other" / "b.png")
    (photos / "out").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(photos)
    assert paths(walk_sources([photos]), photos) == ["a.png", "out/b.png"]


@pytest.mark.parametrize("target", ["itself", "nowhere.png", "a.png/below a file", "x" * 300])
def test_links_that_lead_nowhere_are_set_aside_and_cost_nothing_else(photos: Path, target: str) -> None:
    put(photos / "a.png")
    (photos / "itself").symlink_to(target)
    found = walk_sources([photos])
    assert paths(found, photos) == ["a.png"]
    assert failures(found) == {"itself": f"a broken symbolic link to {target}"}
    assert failures(walk_sources([photos / "itself"])) == failures(found)


# What can't be opened


def test_a_pipe_and_a_socket_are_handed_on_without_being_opened(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the pipe would wait for ever; the decoder refuses both, with the reason."""
    os.mkfifo(photos / "pipe")
    monkeypatch.chdir(photos)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert paths(walk_sources([photos]), photos) == ["pipe", "socket"]


def test_a_name_that_is_not_utf8_is_set_aside_with_its_bytes_written_out(photos: Path) -> None:
    put(photos / "a.png")
    try:
        (Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))).write_bytes(PNG)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = walk_sources([photos])
    assert paths(found, photos) == ["a.png"]
    assert failures(found) == {r"caf\xe9.png": "the file's name is not valid UTF-8; rename it"}


def test_a_broken_link_to_a_name_that_is_not_utf8_has_a_reason_that_can_be_stored(photos: Path) -> None:
    (photos / "link").symlink_to(os.fsdecode(b"caf\xe9.png"))
    found = walk_sources([photos])
    assert failures(found) == {"link": r"a broken symbolic link to caf\xe9.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_that_may_not_be_opened_is_set_aside(photos: Path) -> None:
    put(photos / "a.png")
    put(photos / "closed" / "b.png")
    (photos / "link").symlink_to("closed/b.png")
    (photos / "closed").chmod(0)
    try:
        found = walk_sources([photos])
    finally:
        (photos / "closed").chmod(0o700)
    assert paths(found, photos) == ["a.png"]
    assert failures(found)["closed"] == "the folder can't be opened"
    assert set(failures(found)) == {"closed", "link"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_files_of_a_folder_that_may_only_be_listed_are_set_aside(photos: Path) -> None:
    put(photos / "listed" / "a.png")
    (photos / "listed").chmod(0o400)
    try:
        found = walk_sources([photos])
    finally:
        (photos / "listed").chmod(0o700)
    assert (paths(found, photos), failures(found)) == ([], {"a.png": "Permission denied"})


# Folders to leave out


def test_only_what_is_surely_not_there_is_gone(photos: Path) -> None:
    file = put(photos / "a.png")
    assert is_path_missing(str(photos / "b.png"))
    assert is_path_missing(str(file / "b.png"))
    assert not is_path_missing(str(file))
    assert not is_path_missing(
        str(photos / ("x" * 5000))
    )  # the system can't say: as behind a folder that may not be opened


def test_a_folder_to_skip_is_not_entered_whatever_leads_to_it(photos: Path) -> None:
    put(photos / "a.png")
    put(photos / "home" / "uploads" / "b.png")
    put(photos / "home" / "mine.png")
    (photos / "link").symlink_to("home/uploads")
    found = walk_sources([photos], skip=[photos / "home" / "uploads", photos / "home" / "not there yet"])
    assert paths(found, photos) == ["a.png", "home/mine.png"]


def test_a_home_among_the_images_is_not_entered(photos: Path) -> None:
    put(photos / "a.png")
    put(photos / "simile-home" / "encoders" / "b.png")
    found = walk_sources([photos], skip=[photos / "simile-home"])
    assert (paths(found, photos), found.failures, found.ignored_count) == (["a.png"], [], 0)


def test_only_the_folder_itself_is_skipped_not_others_of_its_name(photos: Path) -> None:
    put(photos / "x" / "uploads" / "a.png")
    put(photos / "uploads" / "b.png")
    assert paths(walk_sources([photos], skip=[photos / "uploads"]), photos) == ["x/uploads/a.png"]
