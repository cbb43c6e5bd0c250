"""A home of plain colours, whose encoder has a text tower that knows the names of the colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from simile.core.settings import Settings, load_settings
from tests.models.external import model_files as models
from tests.support.commands import run_json

EACH = 6  # images of a colour


def write_colours(folder: Path) -> Path:
    """Images named red-0.png to yellow-5.png: noise around a colour, lighter or darker."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, colour in models.COLOURS.items():
        for number in range(EACH):
            base = 25 + (150 + 10 * number) * np.array(colour)
            pixels = np.clip(base + random.normal(0, 12, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}-{number}.png")
    return folder


def write_preprocess(folder: Path) -> Path:
    path = folder / "preprocess.json"
    path.write_text(json.dumps(models.PREPROCESS | {"mean": [0.0] * 3, "deviation": [1.0] * 3}))
    return path


def make_colour_home(folder: Path) -> Settings:
    """Add both towers and index the colours, at the command line."""
    home = ("--home", folder / "home")
    added = run_json(
        *("encoders", "add", models.export_onnx(models.ColourTower(), folder / "image.onnx"), "--name", "colours"),
        *("--preprocess", write_preprocess(folder), "--text", models.export_text_tower(folder / "text.onnx")),
        *("--tokenizer", models.write_tokenizer(folder / "tokenizer.json"), *home),
    )
    assert added["text"] is True and added["dimensions"] == 6
    run_json("index", write_colours(folder / "photos"), *home)
    return load_settings(home=folder / "home", device="cpu", workers=2, allowed_hosts="testserver")
