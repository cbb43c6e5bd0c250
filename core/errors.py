"""Everything that simile raises on purpose.

    SimileError
    ├── InputError                 what was handed in is at fault
    │   ├── BadSetting             a setting or an argument has a value that can't be used
    │   │   └── BadUsage           options of a command that can't be given together, or that are lacking
    │   ├── NoSuchPath             a path that was named does not exist
    │   ├── UnreadableImage        not a picture, or a damaged one
    │   │   └── ImageTooLarge      more pixels or bytes than allowed
    │   ├── NoSuchImage            an id that is not in the catalogue
    │   ├── NoSuchJob              an id of no indexing job
    │   ├── NoSuchRoot             a name of no folder that may be indexed over HTTP
    │   ├── NoSuchEncoder          a fingerprint or path that leads to no encoder
    │   ├── TooFewPictures         not enough to train on
    │   └── BackupDamaged          a backup is incomplete, altered, or none of simile's
    ├── NotFinite                  NaN or infinity where numbers were expected
    ├── NoDecoder                  this encoder can't show what it saw
    ├── NoVariance                 this encoder can't say how sure it is
    ├── NothingIndexed             a search in an empty home
    ├── EncoderMismatch            vectors of two encoders met, or a vector of the wrong length
    ├── BeingComputed              the answer takes longer than a request may: ask again
    ├── JobRunning                 an indexing job is under way, and there is one at a time
    ├── JobOver                    an indexing job has ended: it can't be stopped any more
    ├── CheckpointDamaged          an encoder's files don't belong together
    ├── IndexDamaged               a segment is missing, altered or inconsistent
    └── HomeError
        ├── HomeBusy               another process holds the home's lock
        ├── HomeOutdated           made by an older simile; a writer must upgrade it
        ├── HomeTooNew             made by a newer simile
        └── HomeNotWritable        no space, or no permission

Each says what happened, with the path, id or setting, and what to do next. Core knows neither HTTP nor
the shell: service/problems.py gives each class its status, cli/main.py prints `Type: message`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

pass


class SimileError(Exception):
    """Base of all errors that simile raises on purpose; `str()` of it is fit for a user."""


class InputError(SimileError):
    """What was handed in is at fault."""


class BadSetting(InputError):
    """A setting or an argument has a value that can't be used."""


class BadUsage(BadSetting):
    """A command line makes no sense as a whole: the command ends with exit code 2, as for an unknown option."""


class NoSuchPath(InputError):
    """A path that was named does not exist."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(f"{path} does not exist. Check the spelling, or name another file or folder.")
        self.path = path


class UnreadableImage(InputError):
    """Not a picture, or a damaged one. `name` is the path or the upload's name, `reason` a phrase."""

    def __init__(self, name: Path | str, reason: str) -> None:
        super().__init__(f"{name}: {reason}. Replace the file, or leave it out.")
        self.name = str(name)
        self.reason = reason


class ImageTooLarge(UnreadableImage):
    """More pixels or bytes than the limits allow; `reason` names the limit and its setting."""


class NoSuchImage(InputError):
    """An image id that is not in the catalogue."""

    def __init__(self, image_id: int) -> None:
        super().__init__(f"There is no image {image_id}. It was never indexed, or it has been deleted.")
        self.image_id = image_id


class NoSuchJob(InputError):
    """An id of no indexing job."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"There is no job {job_id}. The list of jobs names those there are.")
        self.job_id = job_id


class NoSuchRoot(InputError):
    """A name of no folder that may be indexed over HTTP; `known`: the names that are."""

    def __init__(self, name: str, known_names: Sequence[str]) -> None:
        given = (
            f"Give one of: {', '.join(known_names)}"
            if known_names
            else "The operator gives names to folders with SIMILE_ROOTS"
        )
        super().__init__(f"There is no root {name!r}. {given}.")
        self.name = name


class NoSuchEncoder(InputError):
    """A fingerprint or path that leads to no encoder."""


class TooFewPictures(InputError):
    """Not enough pictures to train on."""


class BackupDamaged(InputError):
    """A backup is incomplete, altered, or none of simile's."""


class ArchiveDamaged(InputError):
    """A file of compressed pictures is damaged, or none of simile's."""


class NotFinite(SimileError):
    """NaN or infinity where numbers were expected."""


class NoDecoder(SimileError):
    """This encoder can't show what it saw: it has no decoder."""


class NoVariance(SimileError):
    """This encoder can't say how sure it is: it has no variance."""


class NothingIndexed(SimileError):
    """A search in a home that holds no vectors, or no encoder."""


class EncoderMismatch(SimileError):
    """Vectors of two encoders met, or a vector of the wrong length came in."""


class BeingComputed(SimileError):
    """The answer takes longer than a request may: it is computed behind it, ask again."""


class JobRunning(SimileError):
    """An indexing job is under way, and there is one at a time."""


class JobOver(SimileError):
    """An indexing job has ended: it can't be stopped any more."""


class CheckpointDamaged(SimileError):
    """An encoder's files don't belong together: altered, incomplete, or of an unknown kind."""


class IndexDamaged(SimileError):
    """An index segment is missing, altered or inconsistent with itself."""


class HomeError(SimileError):
    """The home folder can't be used as it is."""


class HomeBusy(HomeError):
    """Another process holds the home's lock."""


class HomeOutdated(HomeError):
    """The catalogue was made by an older simile and must be upgraded by a writer first."""


class HomeTooNew(HomeError):
    """The catalogue was made by a newer simile."""


class HomeNotWritable(HomeError):
    """No space left, or no permission to write."""


class DownloadFailed(SimileError):
    """A dataset could not be fetched."""
