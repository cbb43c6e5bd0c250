"""Hashes of images by other tools, run with the Python of a virtual environment that has them.

    V/bin/python benchmarks/peers/hashes.py LIST OUTPUT.npz SUMMARY.json     LIST: a file with a path a line

Writes for each tool that can be imported an array (n, d), rows in the order of the list: bits of hashes as uint8 0 or
1, compared by Hamming distance, or float32 features, compared by direction; and the seconds of each tool, or why it was
left out. The script imports nothing of simile.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Method = Callable[[list[str]], Any]


def main() -> None:
    """Run all tools."""
    files, output, summary = Path(sys.argv[1]).read_text("utf-8").splitlines(), Path(sys.argv[2]), Path(sys.argv[3])
    arrays, seconds, left_out = {}, {}, {}
    for name, method in methods():
        started = time.monotonic()
        try:
            arrays[name] = method(files)
        except Exception as error:  # the other tools are still measured  # noqa: BLE001
            left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        seconds[name] = round(time.monotonic() - started, 1)
    np.savez(output, **arrays)
    summary.write_text(json.dumps({"seconds": seconds, "left_out": left_out}), "utf-8")


def methods() -> Iterator[tuple[str, Method]]:
    """Yield all tools, by name."""
    for name in ("PHash", "DHash", "WHash"):
        yield f"imagededup {name}", lambda files, name=name: imagededup(name, files)  # type: ignore[misc]
    yield "pdqhash", pdq
    yield "fastdup", fastdup


def imagededup(name: str, files: list[str]) -> Any:
    """Return bits, (n, 64)."""
    declare_operators()
    from imagededup import methods  # noqa: PLC0415

    hasher = getattr(methods, name)(verbose=False)
    hashes = [hasher.encode_image(image_file=file) for file in files]
    return np.array([[int(bit) for bit in f"{int(text, 16):064b}"] for text in hashes], np.uint8)


def pdq(files: list[str]) -> Any:
    """Return bits, (n, 256)."""
    import pdqhash  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    return np.array([pdqhash.compute(np.asarray(Image.open(file).convert("RGB")))[0] for file in files], np.uint8)


def fastdup(files: list[str]) -> Any:
    """Return the features whose cosines are the tool's similarities."""
    os.environ["SENTRY_OPT_OUT"] = "true"
    import fastdup as tool  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as work:
        tool.run(files, work_dir=work, run_mode=1, turi_param="run_sentry=0")  # features only
        names, features = tool.load_binary_feature(str(Path(work) / "atrain_features.dat"))
    rows = {name: row for row, name in enumerate(names)}
    return np.asarray(features, np.float32)[[rows[file] for file in files]]


def declare_operators() -> None:
    """Declare operators without which torchvision, and so imagededup, cannot be imported with a CPU-only torch."""
    import torch  # noqa: PLC0415

    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)  # torch removes the definitions with the library


LIBRARIES: list[Any] = []

if __name__ == "__main__":
    main()
