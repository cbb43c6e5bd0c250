"""From prepared pictures to rows of the catalogue: the one place where both doors, folder and upload, embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from core.records import FileFacts
from models.collection import Prepared
from store.records import NewPicture

if TYPE_CHECKING:
    from models.encoder import TrainedEncoder


def embedded_rows(
    files: Sequence[tuple[FileFacts, Prepared]], encoder: TrainedEncoder, *, with_errors: bool
) -> list[NewPicture]:
    """One row for each file, in order; a content that occurs twice is embedded once. Raises NotFinite.

    `with_errors`: also decodes, for the reconstruction error. That takes longer than to encode, so the job leaves it
    to whoever asks for a picture's (search/searcher.py).
    """
    contents = {picture.sha256: picture for _, picture in files}
    if not contents:
        return []
    batch = np.stack([picture.array for picture in contents.values()])
    latent, errors = encoder.embed(batch) if with_errors else (encoder.encode(batch), None)
    log_variance = None if latent.sigma is None else 2 * np.log(latent.sigma)
    number = {sha256: number for number, sha256 in enumerate(contents)}
    return [
        NewPicture(
            sha256=picture.sha256,
            size=picture.size,
            format=picture.format,
            width=picture.width,
            height=picture.height,
            facts=file,
            mu=latent.mu[number[picture.sha256]],
            log_variance=None if log_variance is None else log_variance[number[picture.sha256]],
            reconstruction_error=None if errors is None else float(errors[number[picture.sha256]]),
        )
        for file, picture in files
    ]
