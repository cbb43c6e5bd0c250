"""The training report: numbers as JSON and three pictures, written into the encoder's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simile.core.records import FloatArray
from simile.images.formats import Pixels
from simile.images.rendering import line_chart, sheets
from simile.models.checkpoints.checkpoint import write_json
from simile.models.inference.encoder import TrainedEncoder
from simile.models.training.loop import TrainingResult

REPORT_RECONSTRUCTION_COUNT = 16  # originals beside reconstructions
REPORT_SAMPLE_COUNT = 36


def write_training_report(folder: Path, result: TrainingResult, encoder: TrainedEncoder, seed: int) -> None:
    """report.json, curves.png, reconstructions.png and samples.png."""
    write_json(
        folder / "report.json",
        {
            "fingerprint": encoder.fingerprint,
            "best_epoch": result.best_epoch,
            "stopped": result.stop_reason,
            "warnings": result.warnings,
            "latent_dim": encoder.latent_dim,
            "unit": "nats per picture; squared_error is the mean over values in [0, 1]",
            "best": result.history[result.best_epoch - 1],
            "epochs": result.history,
        },
    )
    (folder / "curves.png").write_bytes(_draw_loss_curves(result))
    if not encoder.has_decoder:
        return
    spread = np.linspace(
        0, len(result.validation_images) - 1, min(REPORT_RECONSTRUCTION_COUNT, len(result.validation_images))
    ).astype(int)
    (folder / "reconstructions.png").write_bytes(_draw_reconstructions(result.validation_images[spread], encoder))
    if encoder.has_variance:
        (folder / "samples.png").write_bytes(_draw_samples(encoder, seed))


def _draw_loss_curves(result: TrainingResult) -> bytes:
    """Each part of the loss that was measured on both sides: where they part, the network over-fits."""
    both = [part for part in result.history[0]["train"] if part in result.history[0]["validation"]]
    series = {
        f"{part}, {split}": [(float(epoch["epoch"]), float(epoch[split][part])) for epoch in result.history]
        for part in both
        for split in ("train", "validation")
    }
    return line_chart.draw_line_chart(
        series, title="Parts of the loss, training against validation", x_label="epoch", y_label="nats per picture"
    )


def _draw_reconstructions(originals: Pixels, encoder: TrainedEncoder) -> bytes:
    decoded = encoder.decode(encoder.encode(originals).mu)
    return sheets.draw_reconstruction_pairs(
        _crop_to_content(originals, encoder), _convert_decoded(decoded, encoder), columns=8
    )


def _draw_samples(encoder: TrainedEncoder, seed: int) -> bytes:
    z = np.random.default_rng(seed).standard_normal((REPORT_SAMPLE_COUNT, encoder.latent_dim)).astype(np.float32)
    return sheets.draw_image_grid(_convert_decoded(encoder.decode(z), encoder), columns=9)


def _convert_decoded(decoded: FloatArray, encoder: TrainedEncoder) -> Pixels:
    _, _, height, width = encoder.preprocessing.content_box()
    return np.stack([encoder.preprocessing.to_pixels(picture, width, height) for picture in decoded])


def _crop_to_content(batch: Pixels, encoder: TrainedEncoder) -> Pixels:
    """(n, S, S, C) as the content alone, (n, h, w, 3)."""
    top, left, height, width = encoder.preprocessing.content_box()
    inner = batch[:, top : top + height, left : left + width]
    return np.ascontiguousarray(np.broadcast_to(inner, (*inner.shape[:3], 3)))
