"""The training report: measurements as JSON and three images, written into the encoder's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simile.core.records import FloatArray
from simile.images.formats import Pixels
from simile.images.rendering import line_chart, sheets
from simile.models.checkpoints.checkpoint import write_json
from simile.models.inference.encoder import TrainedEncoder
from simile.models.training.loop import TrainingResult

REPORT_RECONSTRUCTION_COUNT = 16  # pairs of original and reconstruction
REPORT_SAMPLE_COUNT = 36


def write_training_report(folder: Path, result: TrainingResult, encoder: TrainedEncoder, seed: int) -> None:
    """Write report.json, curves.png, and if there is a decoder reconstructions.png and samples.png."""
    write_json(
        folder / "report.json",
        {
            "fingerprint": encoder.fingerprint,
            "best_epoch": result.best_epoch,
            "stopped": result.stop_reason,
            "warnings": result.warnings,
            "latent_dim": encoder.latent_dim,
            "teacher": encoder.description.teacher,
            "unit": "nats per image; squared_error is the mean over values in [0, 1]",
            "best": result.history[result.best_epoch - 1],
            "epochs": result.history,
        },
    )
    (folder / "curves.png").write_bytes(_draw_loss_curves(result))
    if not encoder.has_decoder:
        return
    count = len(result.validation_images)
    rows = np.linspace(0, count - 1, min(REPORT_RECONSTRUCTION_COUNT, count)).astype(int)
    (folder / "reconstructions.png").write_bytes(_draw_reconstructions(result.validation_images[rows], encoder))
    if encoder.has_variance:
        (folder / "samples.png").write_bytes(_draw_samples(encoder, seed))


def _draw_loss_curves(result: TrainingResult) -> bytes:
    """Draw the parts of the loss that both splits have: if the two curves diverge, the network overfits."""
    shared = [part for part in result.history[0]["train"] if part in result.history[0]["validation"]]
    series = {
        f"{part}, {split}": [(float(epoch["epoch"]), float(epoch[split][part])) for epoch in result.history]
        for part in shared
        for split in ("train", "validation")
    }
    return line_chart.draw_line_chart(
        series, title="Parts of the loss, training against validation", x_label="epoch", y_label="nats per image"
    )


def _draw_reconstructions(originals: Pixels, encoder: TrainedEncoder) -> bytes:
    content = originals[:, *encoder.preprocessing.content_slices]  # (n, h, w, C) without padding
    content = np.ascontiguousarray(np.broadcast_to(content, (*content.shape[:3], 3)))
    return sheets.draw_reconstruction_pairs(content, _decode(encoder.encode(originals).mu, encoder), columns=8)


def _draw_samples(encoder: TrainedEncoder, seed: int) -> bytes:
    z = np.random.default_rng(seed).standard_normal((REPORT_SAMPLE_COUNT, encoder.latent_dim)).astype(np.float32)
    return sheets.draw_image_grid(_decode(z, encoder), columns=9)


def _decode(mu: FloatArray, encoder: TrainedEncoder) -> Pixels:
    _, _, height, width = encoder.preprocessing.content_box()
    return encoder.reconstruct_many(mu, width, height)
