"""Arrays of images that are too large for memory, in a temporary file that is mapped into memory.

The file has no name, so that the system frees its space when the array is gone, however the process ends.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from simile.core.errors import HomeNotWritable
from simile.images.transforms import Pixels


def empty_images(shape: tuple[int, ...], folder: Path | None) -> Pixels:
    """Return an array (n, S, S, C) uint8 to fill: in memory, or with a folder in a temporary file there.

    Raises HomeNotWritable when the folder lacks the space or the permission.
    """
    size = math.prod(shape)
    if folder is None or size == 0:
        return np.empty(shape, np.uint8)
    try:
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk later would end the process by SIGBUS
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise HomeNotWritable(
            f"The {shape[0]:,} images to train on need {size / 1e9:,.1f} GB in {folder}: {error.strerror or error}. "
            "Make space there, train on fewer images or with a smaller --image-size, or keep more of them in memory "
            "(SIMILE_TRAIN_MEMORY)."
        ) from error


def is_in_file(images: Pixels) -> bool:
    """Return whether `images` are in a file, as those of `empty_images` with a folder."""
    return isinstance(images, np.memmap)
