"""Worker processes: order, bounds, and that what kills or hangs one of them costs one item."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.records import Failure
from simile.images.encoding import encode_png
from simile.images.formats import Limits
from simile.images.loading.fork_server import WorkerLost
from simile.images.loading.loader import PreparedImage, prepare_files, sample_images
from simile.images.loading.worker_pool import BATCH_ITEM_COUNT, MAX_WAITING_BATCHES, WorkerPool
from simile.images.transforms import Preprocessing

SPEC = Preprocessing(image_size=32, channels=3)
CRASHES = {
    "__import__('os').kill(__import__('os').getpid(), 9)": "was killed; perhaps there was not enough memory",
    "__import__('ctypes').string_at(0)": "the decoder crashed on it (SIGSEGV)",
    "__import__('os').abort()": "the decoder crashed on it (SIGABRT)",
    "__import__('time').sleep(99)": "decoding it took more than 0.4 seconds (SIMILE_DECODE_SECONDS)",
    # A library that never lets go of the interpreter can't be stopped from within.
    "__import__('ctypes').PyDLL(None).sleep(99)": "decoding it took more than 0.4 seconds (SIMILE_DECODE_SECONDS)",
}


def picture(seed: int, side: int = 24) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}.png").write_bytes(picture(number))
    return folder


def paths_in(folder: Path) -> list[str]:
    return sorted(map(str, folder.iterdir()))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_results_come_in_the_order_of_their_items() -> None:
    with WorkerPool(3) as workers:
        assert list(workers.map(eval, (f"{number} ** 2" for number in range(500)))) == [n**2 for n in range(500)]
        assert list(workers.map(len, [])) == []
        assert list(workers.map(len, ["ab", "c"])) == [2, 1]  # another function, the same workers


@pytest.mark.parametrize("crash", CRASHES)
def test_what_kills_or_hangs_a_worker_costs_one_item(crash: str) -> None:
    items = [str(number) for number in range(50)]
    items[20] = items[21] = items[49] = crash
    with WorkerPool(2, seconds=0.4) as workers:
        results = list(workers.map(eval, items))
    lost = [number for number, result in enumerate(results) if isinstance(result, WorkerLost)]
    assert lost == [20, 21, 49]
    assert CRASHES[crash] in results[20].reason
    assert [result for result in results if not isinstance(result, WorkerLost)] == [
        n for n in range(50) if n not in lost
    ]


def test_an_error_in_the_function_costs_one_item() -> None:
    with WorkerPool(1) as workers:
        first, second, third = workers.map(eval, ["1", "1 / 0", "3"])
    assert (first, third) == (1, 3)
    assert isinstance(second, WorkerLost) and "ZeroDivisionError" in second.reason


def test_a_worker_cannot_take_all_memory() -> None:
    with WorkerPool(1, max_pixels=1_000_000) as workers:
        small, large = workers.map(eval, ["len(bytearray(10**8))", "len(bytearray(3 * 10**9))"])
    assert small == 10**8
    assert isinstance(large, WorkerLost) and "MemoryError" in large.reason


def test_items_are_not_taken_far_ahead_of_the_results() -> None:
    taken = itertools.count()
    with WorkerPool(2) as workers:
        results = workers.map(eval, ("1" for _ in iter(lambda: next(taken), -1)))
        next(results)
        assert next(taken) <= (MAX_WAITING_BATCHES + 1) * BATCH_ITEM_COUNT
        for _ in range(1000):
            next(results)
        assert next(taken) <= 1000 + (MAX_WAITING_BATCHES + 2) * BATCH_ITEM_COUNT


def test_after_stop_only_what_is_done_comes(folder: Path) -> None:
    with WorkerPool(1) as workers:
        results = workers.map(eval, itertools.repeat("__import__('time').sleep(0.001)"))
        next(results)
        workers.stop()
        assert len(list(results)) < BATCH_ITEM_COUNT


def test_the_job_goes_on_when_the_fork_server_and_its_workers_are_killed() -> None:
    with WorkerPool(2) as workers:
        results = workers.map(eval, (f"__import__('time').sleep(0.001) or {number}" for number in range(1000)))
        found = [next(results)]
        nursery = workers._fork_server._process.pid
        for pid in [nursery, *children(nursery)]:
            os.kill(pid, signal.SIGKILL)
        found += list(results)
    lost = sum(isinstance(result, WorkerLost) for result in found)
    assert lost <= 2
    assert [n for n in found if not isinstance(n, WorkerLost)] == [
        n for n in range(1000) if not isinstance(found[n], WorkerLost)
    ]


@pytest.mark.real_processes
def test_workers_know_nothing_of_torch_and_use_one_thread() -> None:
    with WorkerPool(1) as workers:
        (modules,) = workers.map(eval, ["sorted(__import__('sys').modules)"])
    assert isinstance(modules, list) and "PIL.Image" in modules
    assert {"torch", "faiss", "sqlalchemy", "pydantic"}.isdisjoint(modules)


def test_a_job_that_is_killed_leaves_no_process_behind() -> None:
    script = (
        "from simile.images.loading.worker_pool import WorkerPool\n"
        "workers = WorkerPool(2, seconds=60)\n"
        "results = workers.map(eval, ['1'] * 64 + ['__import__(\"time\").sleep(60)'] * 64)\n"
        "next(results); print(workers._fork_server._process.pid, flush=True); list(results)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        nursery = int(job.stdout.readline())
        running = [nursery, *children(nursery)]
        job.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, running)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(running) > 1 and not any(map(is_running, running))


# Images


def test_a_bad_file_is_a_failure_with_its_reason(folder: Path) -> None:
    (folder / "050.png").write_text("no picture")
    results = list(prepare_files(paths_in(folder), SPEC, Limits(), 2))
    assert isinstance(results[50], Failure)
    assert results[50] == Failure(str(folder / "050.png"), results[50].reason)
    assert "not an image" in results[50].reason
    assert sum(isinstance(result, PreparedImage) for result in results) == 199


def test_an_image_that_takes_too_long_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    Image.new("RGB", (9000, 9000)).save(tmp_path / "b.png", compress_level=1)
    (tmp_path / "c.png").write_bytes(picture(2))
    first, slow, last = prepare_files(paths_in(tmp_path), SPEC, Limits(seconds=0.25), 1)
    assert isinstance(first, PreparedImage) and isinstance(last, PreparedImage)
    assert isinstance(slow, Failure) and "more than 0.25 seconds (SIMILE_DECODE_SECONDS)" in slow.reason


def test_a_worker_killed_by_the_system_costs_at_most_one_image(folder: Path) -> None:
    with WorkerPool(2) as workers:
        results = prepare_files(paths_in(folder) * 5, SPEC, Limits(), workers)
        found = [next(results)]
        os.kill(children(workers._fork_server._process.pid)[0], signal.SIGKILL)
        found += list(results)
    assert len(found) == 1000
    assert sum(isinstance(result, Failure) for result in found) <= 1


def test_samples_keep_one_pixel_and_skip_what_cannot_be_read(folder: Path) -> None:
    for path in paths_in(folder)[::2]:
        Path(path).write_text("no picture")
    sample = sample_images(paths_in(folder), Limits(), 2, 80, seed=1)
    assert len(sample) == 80
    assert {(one.width, one.height, one.pixels.shape) for one in sample} == {(24, 24, (1, 1, 3))}
    assert len(sample_images(paths_in(folder), Limits(), 2, 500, seed=1)) == 100


# Every format that Pillow can write, damaged in every way (benchmarks/indexing/bad_files.py does the same for longer)


def kinds() -> Iterator[tuple[str, bytes]]:
    Image.init()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 32, 3)).astype(np.uint8))
    for format in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1", "P"):
            file = io.BytesIO()
            try:
                image.convert(mode).save(file, format)
            except Exception:  # formats differ in what they take and what they lack  # noqa: BLE001
                continue
            yield format, file.getvalue()
            break


def damaged(data: bytes, cuts: int, flips: int, random: np.random.Generator) -> Iterator[bytes]:
    for length in np.linspace(0, len(data), cuts, endpoint=False, dtype=int):
        yield data[:length]
    for _ in range(flips):
        other = bytearray(data)
        other[random.integers(len(data))] ^= int(random.integers(1, 256))
        yield bytes(other)


def test_every_kind_of_damaged_file_is_accounted_for(tmp_path: Path) -> None:
    random, count = np.random.default_rng(0), itertools.count()
    formats = set()
    for format, data in kinds():
        formats.add(format)
        for version in damaged(data, 4, 4, random):
            (tmp_path / f"{next(count):05d}.jpg").write_bytes(version)
    assert len(formats) >= 20
    paths = paths_in(tmp_path)
    results = list(prepare_files(paths, SPEC, Limits(max_pixels=10_000_000, seconds=10), 2))
    assert len(results) == len(paths) > 200
    for path, result in zip(paths, results, strict=True):
        assert isinstance(result, PreparedImage) or (result.path == path and result.reason)
    assert not [
        one for one in results if isinstance(one, Failure) and ("crashed" in one.reason or "killed" in one.reason)
    ]
