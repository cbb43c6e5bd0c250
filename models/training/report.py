"""The training report: numbers as JSON and three pictures, written into the encoder's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simile.core.records import FloatArray
from simile.images.rendering import line_chart, sheets
from simile.images.transforms import Pixels
from simile.models.checkpoints.checkpoint import write_json
from simile.models.inference.encoder import TrainedEncoder
from simile.models.training.loop import Trained

SHOWN = 16  # originals beside reconstructions
SAMPLES = 36


def write_report(folder: Path, trained: Trained, encoder: TrainedEncoder, seed: int) -> None:
    """report.json, curves.png, reconstructions.png and samples.png."""
    write_json(
        folder / "report.json",
        {
            "fingerprint": encoder.fingerprint,
            "best_epoch": trained.best_epoch,
            "stopped": trained.stopped,
            "warnings": trained.warnings,
            "latent_dim": encoder.latent_dim,
            "unit": "nats per picture; squared_error is the mean over values in [0, 1]",
            "best": trained.history[trained.best_epoch - 1],
            "epochs": trained.history,
        },
    )
    (folder / "curves.png").write_bytes(_curves(trained))
    if not encoder.has_decoder:
        return
    spread = np.linspace(0, len(trained.validation) - 1, min(SHOWN, len(trained.validation))).astype(int)
    (folder / "reconstructions.png").write_bytes(_reconstructions(trained.validation[spread], encoder))
    if encoder.has_variance:
        (folder / "samples.png").write_bytes(_samples(encoder, seed))


def _curves(trained: Trained) -> bytes:
    """Each part of the loss that was measured on both sides: where they part, the network over-fits."""
    both = [part for part in trained.history[0]["train"] if part in trained.history[0]["validation"]]
    series = {
        f"{part}, {split}": [(float(epoch["epoch"]), float(epoch[split][part])) for epoch in trained.history]
        for part in both
        for split in ("train", "validation")
    }
    return line_chart.curves(
        series, title="Parts of the loss, training against validation", x_label="epoch", y_label="nats per picture"
    )


def _reconstructions(originals: Pixels, encoder: TrainedEncoder) -> bytes:
    decoded = encoder.decode(encoder.encode(originals).mu)
    return sheets.pair_rows(_shown(originals, encoder), _from_decoded(decoded, encoder), columns=8)


def _samples(encoder: TrainedEncoder, seed: int) -> bytes:
    z = np.random.default_rng(seed).standard_normal((SAMPLES, encoder.latent_dim)).astype(np.float32)
    return sheets.grid(_from_decoded(encoder.decode(z), encoder), columns=9)


def _from_decoded(decoded: FloatArray, encoder: TrainedEncoder) -> Pixels:
    _, _, height, width = encoder.preprocessing.content_box()
    return np.stack([encoder.preprocessing.to_pixels(picture, width, height) for picture in decoded])


def _shown(batch: Pixels, encoder: TrainedEncoder) -> Pixels:
    """(n, S, S, C) as the content alone, (n, h, w, 3)."""
    top, left, height, width = encoder.preprocessing.content_box()
    inner = batch[:, top : top + height, left : left + width]
    return np.ascontiguousarray(np.broadcast_to(inner, (*inner.shape[:3], 3)))
