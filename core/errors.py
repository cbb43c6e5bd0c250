"""All errors that simile raises on purpose.

Each message says what happened, with the path, id or setting, and what to do next. This module knows neither HTTP
nor the shell: service/errors.py maps each class to a status, cli/main.py prints `Type: message`. The class names are
part of the API: `TooFewPictures` is the problem type `too-few-pictures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class SimileError(Exception):
    """Base class of all errors that simile raises on purpose. `str()` gives a message for users."""


class InputError(SimileError):
    """The input is wrong."""


class BadSetting(InputError):
    """The value of a setting or an argument can't be used."""


class BadUsage(BadSetting):
    """The options of a command conflict, or one is missing. The exit code is 2, as for an unknown option."""


class NoSuchPath(InputError):
    """A given path does not exist."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(f"{path} does not exist. Check the spelling, or name another file or folder.")
        self.path = path


class UnreadableImage(InputError):
    """A file is not an image, or it is damaged.

    Args:
        name: Path of the file, or name of the upload.
        reason: What is wrong, as a phrase.
    """

    def __init__(self, name: Path | str, reason: str) -> None:
        super().__init__(f"{name}: {reason}. Replace the file, or leave it out.")
        self.name = str(name)
        self.reason = reason


class QuotaExceeded(InputError):
    """The uploads of a key, or of all clients without one, would take more bytes than they may."""


class ImageTooLarge(UnreadableImage):
    """An image has more pixels or bytes than allowed. `reason` names the limit and its setting."""


class NoSuchImage(InputError):
    """The image id is not in the catalogue."""

    def __init__(self, image_id: int) -> None:
        super().__init__(f"There is no image {image_id}. It was never indexed, or it has been deleted.")
        self.image_id = image_id


class NoSuchJob(InputError):
    """No indexing job has this id."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"There is no job {job_id}. The list of jobs shows all ids.")
        self.job_id = job_id


class NoSuchRoot(InputError):
    """No folder that may be indexed over HTTP has this name.

    Args:
        name: The unknown name.
        known_names: Names of the folders that may be indexed.
    """

    def __init__(self, name: str, known_names: Sequence[str]) -> None:
        allowed = ", ".join(known_names)
        hint = f"Give one of: {allowed}" if allowed else "The operator gives names to folders with SIMILE_ROOTS"
        super().__init__(f"There is no root {name!r}. {hint}.")
        self.name = name


class NoSuchEncoder(InputError):
    """No encoder has this fingerprint or path."""


class TooFewPictures(InputError):
    """There are too few images for training or for a measurement."""


class BackupDamaged(InputError):
    """A backup is incomplete or altered, or was not made by simile."""


class ArchiveDamaged(InputError):
    """A file of compressed images is damaged, or was not made by simile."""


class NotFinite(SimileError):
    """A value is NaN or infinite where a finite number is required."""


class NoDecoder(SimileError):
    """The encoder has no decoder, so it can't reconstruct images."""


class NoVariance(SimileError):
    """The encoder has no variance, so its uncertainty is unknown."""


class NothingIndexed(SimileError):
    """The home holds no vectors, or no active encoder."""


class EncoderMismatch(SimileError):
    """Vectors of two encoders are mixed, or a vector has the wrong length."""


class BeingComputed(SimileError):
    """The result takes longer than a request may. It is computed in the background: repeat the request."""


class JobRunning(SimileError):
    """An indexing job is running, and only one may run at a time."""


class JobOver(SimileError):
    """An indexing job has ended, so it can't be cancelled."""


class CheckpointDamaged(SimileError):
    """An encoder's files are altered, incomplete, or of an unknown kind."""


class IndexDamaged(SimileError):
    """An index segment is missing, altered or inconsistent."""


class HomeError(SimileError):
    """The home folder can't be used as it is."""


class HomeBusy(HomeError):
    """Another process holds the home's lock."""


class HomeOutdated(HomeError):
    """The catalogue was made by an older version of simile. A writer must upgrade it first."""


class HomeTooNew(HomeError):
    """The catalogue was made by a newer version of simile."""


class HomeNotWritable(HomeError):
    """No space left, or no permission to write."""


class ObjectsUnavailable(SimileError):
    """The object store can't be reached or used, or an object is missing. The same call may succeed later."""


class DatabaseUnavailable(SimileError):
    """The database server can't be reached, or it ended the connection. The same call may succeed later.

    Args:
        message: What a client of the service may know.
        reason: The message of the database, which may name hosts and values; for the log.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TransactionConflict(DatabaseUnavailable):
    """Another writer changed the same rows at the same time. The same call succeeds when it is repeated."""


class WorkersFailed(SimileError):
    """The worker processes that decode images can't be started, or end before they begin to work."""


class DownloadFailed(SimileError):
    """A dataset could not be fetched."""
