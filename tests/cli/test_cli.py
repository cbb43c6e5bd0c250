"""The command line as a person or a script meets it: streams, JSON, exit codes, messages."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from simile.cli.main import app, run
from simile.cli.output import format_summary, make_search_result_json
from simile.core.errors import BadSetting
from simile.core.records import IndexSummary
from simile.core.settings import Settings
from simile.images.encoding import encode_png
from simile.indexer.pipeline.job import IndexRequest, index
from simile.search.queries import Confidence, EncodedQuery, SearchResult
from simile.service.schemas.search import QueryResponse
from tests.support.images import make_exif, make_photo, make_xmp
from tests.support.waiting import free_port, wait_until

SIMILE = str(Path(sys.executable).with_name("simile"))


def inside(*arguments: str | Path) -> Result:
    """Runs a command in this process, which spares the seconds that importing torch takes."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def outside(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SIMILE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def test_train_then_index_then_search_by_hand(tmp_path: Path, digits: Path) -> None:
    home = tmp_path / "home"
    trained = inside("train", digits, "--home", home, "--epochs", "2", "--latent-dim", "8", "--device", "cpu", "--json")
    assert trained.exit_code == 0
    report = json.loads(trained.stdout)
    assert report["active"] and Path(report["folder"]).is_dir()
    indexed = inside("index", digits, "--home", home, "--json")
    assert json.loads(indexed.stdout.splitlines()[-1])["new"] == 120
    query = sorted(digits.iterdir())[0]
    answer = json.loads(inside("search", query, "--home", home, "-k", "3", "--json").stdout)
    assert len(answer["hits"]) == 3
    assert {"image_id", "distance", "score", "path"} <= answer["hits"][0].keys()
    assert answer["hits"][0]["path"] == str(query)


def test_search_json_names_its_fields_as_the_api_does_and_keeps_the_old_names() -> None:
    certainty = Confidence(unlike=True, unlike_reason="odd", false_alarm_rate=0.01, false_alarm_among="new")
    encoded = EncodedQuery(mu=np.zeros(2, np.float32))
    query = make_search_result_json(SearchResult(query=encoded, hits=[], confidence=certainty))["query"]
    assert (query["unlike_reason"], query["false_alarm_among"]) == ("odd", "new")
    assert (query["reason"], query["among"]) == ("odd", "new")
    assert query.keys() - {"reason", "among"} <= QueryResponse.model_fields.keys()


def test_train_with_resume_and_nothing_to_resume_says_so(tmp_path: Path, digits: Path) -> None:
    result = outside("train", digits, "--home", tmp_path / "home", "--resume")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("BadSetting: ")
    assert "Leave out --resume" in result.stderr


NONSENSE = {
    "index . --metadata --train": "it excludes --train. Choose one.",
    "index . --metadata --ray": "it excludes --ray. Choose one.",
    "search": "Give an image file, --id or --text.",
    "search a.png --id 1 --box 0,0,1,1": "Give one IMAGE or --id, or leave it out.",
    "search --id 1 --id 2 -o a.png": "Leave it out, or give one IMAGE or --id.",
    "search --id 1 --posterior --plus smile": "posterior can't be combined with plus and minus.",
    "search --id 1 --verify --minus smile": "Leave it out, or --text, --plus and --minus.",
    "morph a.png -o a.gif": "A morph needs at least two images.",
    "morph --id 1 --id 2": "Give --output with a .gif or .png or .webp file, or --json.",
    "generate": "Give --output with a .png file, or --json.",
    "traverse a.png --id 1 -o a.png": "Give an image file or --id, and not both.",
    "traverse --id 1": "Give --output with a .png file, or --json.",
    "manifold": "Give --output with a .png file, or --json.",
    "compress . -o a.simile --bytes 9 --step 0.1": "Give --bytes or --step, not both.",
    "uncertainty": "Give an image file or --id, and not both.",
    "attribute learn x": "or only --where, or --labels and PHOTOS, or --text and --against.",
    "attribute learn x --labels folders": "PHOTOS, --labels and --of go together",
    "attribute apply x": "Give an image file or --id, and not both.",
    "attribute sheet x -o a.png": "Give at least one image file or --id.",
    "evaluate": "Name the images: `simile evaluate PHOTOS`.",
    "evaluate . --picture round": "picture can't be 'round'.",
    "evaluate . --picture manifold": "--picture needs --output FILE.png",
    "evaluate . -o a.txt": "Name a file that ends in .html.",
    "dedup --precision 0.99 --last": "Choose one.",
    "dedup --output a.json --plan a.json": "Use a different file for each.",
    "dedup --last apply a.json": "--last is not valid before apply",
    "dedup apply a.json --hardlink --trash": "exclude each other. Choose one.",
}


@pytest.mark.parametrize("line", NONSENSE)
def test_a_command_line_that_makes_no_sense_exits_with_2_before_anything_is_read(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIMILE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["simile", *line.split()])
    with pytest.raises(SystemExit) as exit_:
        run()
    message = capsys.readouterr().err
    assert (exit_.value.code, message.startswith("BadUsage: ")) == (2, True), message
    assert NONSENSE[line] in message and len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_index_json_ends_with_the_promised_fields(trained_home: Settings, digits: Path) -> None:
    (digits / "bad.jpg").write_text("no picture")
    result = inside("index", digits, "--home", trained_home.home, "--json")
    summary = json.loads(result.stdout.splitlines()[-1])
    assert {"new", "unchanged", "moved", "removed", "failures", "images_per_second"} <= summary.keys()
    assert summary["failures"] == [{"path": str(digits / "bad.jpg"), "reason": summary["failures"][0]["reason"]}]
    assert result.exit_code == 0
    assert inside("index", digits, "--home", trained_home.home, "--strict").exit_code == 1


def test_metadata_of_an_indexed_folder_are_read_again(trained_home: Settings, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/camera.jpg").write_bytes(make_photo(exif=make_exif()))
    inside("index", tmp_path / "photos", "--home", trained_home.home)
    (tmp_path / "photos/camera.xmp").write_bytes(make_xmp())
    (tmp_path / "photos/new.jpg").write_bytes(make_photo(seed=1))
    command = ("index", tmp_path / "photos", "--metadata", "--home", trained_home.home)
    summary = json.loads(inside(*command, "--json").stdout.splitlines()[-1])
    assert (summary["read"], summary["updated"], summary["outdated"], summary["failures"]) == (1, 1, 1, [])
    lines = inside(*command).stdout.splitlines()
    assert lines[0] == "metadata: read 1  with metadata 1  updated 0  unreadable 0"
    assert lines[1].startswith("1 new or changed file not read: run `simile index` without --metadata")


def test_files_of_other_kinds_are_counted_by_kind_and_named_on_request(trained_home: Settings, tmp_path: Path) -> None:
    (photos := tmp_path / "photos").mkdir()
    (photos / "a.png").write_bytes(encode_png(np.zeros((9, 9, 3), np.uint8)))
    for name in ("b.pdf", "c.PDF", "d.mov"):
        (photos / name).write_text("words")
    with zipfile.ZipFile(photos / "e.zip", "w") as packed:
        packed.writestr("f/g.doc", "words")
    command = ("index", photos, photos / "e.zip", "--home", trained_home.home)
    lines = inside(*command).stdout.splitlines()
    assert "5 files of other kinds were skipped: 2 pdf, 1 doc, 1 mov, 1 zip (--list-ignored names them)" in lines
    assert any(re.fullmatch(r"embedded 1 image( at [\d.]+ images/s)?", line) for line in lines)
    named = inside(*command, "--list-ignored", "--dry-run").stdout.splitlines()
    expected = {"b.pdf": "pdf", "c.PDF": "pdf", "d.mov": "mov", "e.zip": "zip", "e.zip/f/g.doc": "doc"}
    listed = {line for line in named if line.startswith("ignored: ")}
    assert listed == {f"ignored: {photos / name} ({kind})" for name, kind in expected.items()}
    assert any(line.startswith("5 files of other kinds") and "--list-ignored" not in line for line in named)
    body = json.loads(inside(*command, "--json").stdout)
    assert (body["ignored"], body["ignored_kinds"]) == (5, {"pdf": 2, "mov": 1, "zip": 1, "doc": 1})
    assert body["ignored_files"] is None
    body = json.loads(inside(*command, "--json", "--list-ignored").stdout)
    assert {file["path"]: file["kind"] for file in body["ignored_files"]} == {
        str(photos / name): kind for name, kind in expected.items()
    }


@pytest.mark.parametrize(
    ("embedded", "seconds", "line"),
    [
        (1, 40.0, "embedded 1 image"),
        (2, 10.0, "embedded 2 images at 0.2 images/s"),
        (5000, 2.0, "embedded 5,000 images at 2,500 images/s"),
    ],
)
def test_the_rate_of_a_run_is_never_shown_as_0(embedded: int, seconds: float, line: str) -> None:
    assert format_summary(IndexSummary(run_id=1, embedded=embedded, seconds=seconds), dry_run=False)[-1] == line


def test_search_prints_rank_distance_path(home_with_digits: Settings) -> None:
    lines = inside("search", "--id", "1", "--home", home_with_digits.home, "-k", "4").stdout.splitlines()
    assert len(lines) == 4
    rank, distance, path = lines[0].split(maxsplit=2)
    assert (rank, Path(path).is_file()) == ("1", True)
    assert float(distance) > 0


def test_search_and_reconstruct_write_images(home_with_digits: Settings, tmp_path: Path) -> None:
    picture = tmp_path / "query.png"
    picture.write_bytes(encode_png(np.full((40, 30, 3), 90, np.uint8)))
    for output in ("sheet.png", "sheet.html"):
        assert inside("search", picture, "--home", home_with_digits.home, "-o", output).exit_code == 0
        assert (tmp_path / output).stat().st_size > 1000
    result = inside("reconstruct", picture, "--home", home_with_digits.home, "--output", "both.png", "--json")
    assert json.loads(result.stdout)["reconstruction_error"] > 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_embed_needs_no_home_when_an_encoder_is_named(home_with_digits: Settings, tmp_path: Path) -> None:
    (folder,) = (path for path in (home_with_digits.home / "encoders").iterdir() if not path.name.startswith("."))
    (tmp_path / "black.png").write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))
    arguments = ("embed", "black.png", "--encoder", folder, "--home", tmp_path / "none", "--output", "v.npz")
    assert inside(*arguments).exit_code == 0
    assert np.load("v.npz")["mu"].shape == (1, 16)
    assert not (tmp_path / "none").exists()


def test_status_verify_and_rebuild_agree_on_a_whole_home(home_with_digits: Settings) -> None:
    home = home_with_digits.home
    assert json.loads(inside("status", "--home", home, "--json").stdout)["images"] == 120
    assert "images     120" in inside("status", "--home", home).stdout
    assert inside("verify", "--home", home).exit_code == 0
    for segment in (home / "segments").iterdir():
        segment.write_bytes(b"damaged")
    broken = inside("verify", "--home", home)
    assert broken.exit_code == 1
    assert "simile rebuild" in broken.stdout
    assert "120" in inside("rebuild", "--home", home).stdout
    assert inside("verify", "--home", home, "--json").stdout.strip() == '{"problems": [], "leftovers": []}'


def test_verify_finds_an_altered_encoder(home_with_digits: Settings) -> None:
    (weights,) = home_with_digits.home.glob("encoders/[0-9a-f]*/weights.safetensors")
    os.truncate(weights, 500)
    result = inside("verify", "--home", home_with_digits.home)
    assert result.exit_code == 1
    assert "weights.safetensors" in result.stdout


def test_errors_are_one_line_on_stderr_without_a_traceback(tmp_path: Path) -> None:
    result = outside("search", "absent.png", "--home", tmp_path / "home")
    assert (result.returncode, result.stdout) == (1, "")
    assert (
        result.stderr == "NoSuchPath: absent.png does not exist. Check the spelling, or name another file or folder.\n"
    )
    assert "Traceback" in outside("search", "absent.png", "--verbose").stderr


def test_search_for_a_folder_names_the_command_that_indexes_it(tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    with pytest.raises(BadSetting) as caught:
        inside("search", "my photos", "--home", tmp_path / "home")
    assert str(caught.value) == (
        "my photos is a folder. Run `simile index 'my photos'` to make its images searchable, or name an image file."
    )


@pytest.mark.real_processes
def test_a_command_line_that_makes_no_sense_exits_with_2() -> None:
    assert outside("index").returncode == 2
    assert outside("search", "x.png", "-k", "0").returncode == 2


def test_numbers_beyond_reason_exit_with_2(digits: Path) -> None:
    assert inside("search", "--id", str(2**63)).exit_code == 2
    assert inside("train", digits, "--seed", "-1").exit_code == 2
    assert inside("train", digits, "--minutes", "inf").exit_code == 2


def test_a_query_whose_name_is_not_utf8_is_shown_with_escapes(home_with_digits: Settings, tmp_path: Path) -> None:
    picture = tmp_path / "odd\udcff.png"
    picture.write_bytes(encode_png(np.full((40, 30, 3), 90, np.uint8)))
    result = outside("search", picture, "--home", home_with_digits.home, "-o", "sheet.html", "--json")
    assert json.loads(result.stdout)["query"]["name"] == str(tmp_path / "odd") + "\\xff.png"
    assert "odd\\xff.png" in (tmp_path / "sheet.html").read_text()


def test_names_that_the_terminal_cannot_show_come_as_escapes(
    home_with_digits: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "кот ü.png"
    picture.write_bytes(encode_png(np.full((40, 30, 3), 90, np.uint8)))
    index(home_with_digits, [picture], IndexRequest())
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    arguments = ("search", picture, "--home", home_with_digits.home, "-k", "1")
    assert r"\u043a\u043e\u0442 \xfc.png" in outside(*arguments).stdout
    assert json.loads(outside(*arguments, "--json").stdout)["hits"][0]["path"] == str(picture)


def test_an_error_nobody_foresaw_is_one_line_too(
    home_with_digits: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("simile.indexer.maintenance.status.read_status", fail)
    monkeypatch.setattr(sys, "argv", ["simile", "status", "--home", str(home_with_digits.home)])
    with pytest.raises(SystemExit) as exit_:
        run()
    assert exit_.value.code == 1
    assert capsys.readouterr().err == (
        "RuntimeError: out of luck. This is a bug: run the command again with --verbose and report the output.\n"
    )


def test_embed_looks_at_its_output_before_it_works(digits: Path, tmp_path: Path) -> None:
    result = outside("embed", digits, "--home", tmp_path / "none", "-o", "absent/vectors.npz")
    assert result.stderr.startswith("BadSetting: absent/vectors.npz can't be written: its folder does not exist.")


def test_a_demo_of_other_images_is_not_mixed_in(home_with_digits: Settings, tmp_path: Path) -> None:
    result = outside("demo", "--home", home_with_digits.home, "--no-serve")
    assert result.returncode == 1
    assert "holds a demo of other images" in result.stderr


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, digits: Path) -> None:
    monkeypatch.setenv("SIMILE_WORKERS", "many")
    result = outside("index", digits)
    assert result.returncode == 1
    assert "workers (SIMILE_WORKERS) can't be 'many'" in result.stderr


@pytest.mark.real_processes
def test_the_demo_serves_its_page_and_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    port = free_port()
    command = [SIMILE, "demo", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            page = wait_until(lambda: fetch(f"http://127.0.0.1:{port}/"), 120)
        finally:
            demo.send_signal(signal.SIGINT)
        printed, said = demo.communicate(timeout=60)
    assert demo.returncode == 0
    assert "Traceback" not in said
    assert "<title>" in page
    assert (tmp_path / "simile-demo" / "searches.png").is_file()
    assert len(list((tmp_path / "simile-demo" / "digits").glob("*.png"))) == 1797
    assert "three searches: simile-demo/searches.png" in printed


def fetch(url: str) -> str:
    """A page; nothing where it is not yet there, or too busy to answer."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())
    return ""


def test_a_port_in_use_is_an_error_that_names_it(home_with_digits: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = outside("serve", "--home", home_with_digits.home, "--port", port)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"BadSetting: Can't listen on 127.0.0.1 port {port}")


# Control characters of file names, and closed streams

CONTROLS = "a\x1b[31m\n\r\x07\x7f\x9b31m\u202eb"
ESCAPED = r"a\x1b[31m\n\r\x07\x7f\x9b31m\u202eb"


def has_controls(text: str) -> bool:
    """Whether anything but the line ends of the output itself can act on a terminal."""
    return any(ord(one) < 32 or 127 <= ord(one) < 160 or one == "\u202e" for one in text.replace("\n", ""))


@pytest.fixture
def odd_names(trained_home: Settings, digits: Path) -> tuple[Settings, Path]:
    """A home, and a folder with two images and a damaged file, with control characters in their names."""
    (folder := digits.parent / f"folder {CONTROLS}").mkdir()
    first, second = sorted(digits.iterdir())[:2]
    (folder / f"{CONTROLS}.png").write_bytes(first.read_bytes())
    (folder / "plain.png").write_bytes(second.read_bytes())
    (folder / f"bad {CONTROLS}.png").write_bytes(first.read_bytes()[:60])
    return trained_home, folder


def test_no_control_character_of_a_name_reaches_the_terminal(odd_names: tuple[Settings, Path]) -> None:
    settings, folder = odd_names
    image, home = folder / f"{CONTROLS}.png", str(settings.home)
    commands = [
        ("index", folder),
        ("search", image),
        ("search", folder),  # an error that names the folder
        ("search", folder / f"gone {CONTROLS}"),
        ("status",),
        ("dedup", "--tier", "bytes"),
        ("embed", folder, "-o", folder / f"{CONTROLS}.npz"),
        ("export", "-o", folder / f"{CONTROLS}.csv"),
        ("attribute", "show", CONTROLS),
        ("search", image, CONTROLS),  # wrong usage
        ("search", f"--{CONTROLS}"),
        (CONTROLS,),
    ]
    for command in commands:
        done = outside(*command, *(() if command == (CONTROLS,) else ("--home", home)))
        shown = done.stdout + done.stderr
        assert not has_controls(shown), (command, shown)
        if command[0] not in ("status", "dedup") and command[-1] != CONTROLS and not str(command[-1]).startswith("--"):
            assert ESCAPED in shown, (command, shown)
    hits = outside("search", image, "--home", home).stdout.splitlines()
    assert len(hits) == 2 and hits[0].endswith(f"{ESCAPED}.png")


def test_json_and_csv_have_the_names_as_they_are(odd_names: tuple[Settings, Path]) -> None:
    settings, folder = odd_names
    image, table = folder / f"{CONTROLS}.png", folder / "table.csv"
    indexed = inside("index", folder, "--home", settings.home, "--json").stdout
    assert not has_controls(indexed) and indexed.count("\n") == 1
    assert json.loads(indexed)["failures"][0]["path"] == str(folder / f"bad {CONTROLS}.png")
    assert json.loads(inside("search", image, "--home", settings.home, "--json").stdout)["hits"][0]["path"] == str(
        image
    )
    inside("export", "-o", table, "--home", settings.home)
    with table.open(newline="", encoding="utf-8") as file:
        assert str(image) in [row["path"] for row in csv.DictReader(file)]


@pytest.mark.real_processes
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_command_works_with_closed_streams(home_with_digits: Settings, closed: str) -> None:
    command = f"{shlex.quote(SIMILE)} status --home {shlex.quote(str(home_with_digits.home))} {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("120" in done.stdout) == (">&-" not in closed.split())
    broken = command.replace(" status ", " search nothing.png ")
    assert subprocess.run(["/bin/sh", "-c", broken], capture_output=True, check=False, timeout=120).returncode == 1
