"""Read images from an S3 store: s3://bucket/folder/image.jpg, and uploads that several hosts share: upload:NAME.

Credentials, region and endpoint come from the usual places of AWS tools, such as AWS_ACCESS_KEY_ID, AWS_REGION and
AWS_ENDPOINT_URL. No message contains them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from simile.core.errors import ObjectsUnavailable, UnreadableImage
from simile.images.formats import Limits, check_byte_count
from simile.images.sources.paths import CHANGED_REASON

SCHEME = "s3://"
UPLOAD_SCHEME = "upload:"  # of the location of an upload in the object store of the home
CONNECT_SECONDS = 3
REQUEST_SECONDS = 20  # without a byte
MAX_ATTEMPTS = 3


def is_s3_url(path: str) -> bool:
    """Return whether the path is that of an object or of a folder in a bucket."""
    return path.startswith(SCHEME)


def is_remote(path: str) -> bool:
    """Return whether the path is that of an object, in a bucket or in the object store of the home."""
    return path.startswith((SCHEME, UPLOAD_SCHEME))


def get_upload_object(location: str) -> str:
    """Return the name in the object store of the home of an upload at a location such as upload:0ab….png."""
    name = location.removeprefix(UPLOAD_SCHEME)
    return f"uploads/{name[:2]}/{name}"


def restore_url(path: Path | str) -> str:
    """Return the path as text; a URL that became a path has lost a slash, and gets it back."""
    text = str(path)
    bucket = text.removeprefix("s3:").lstrip("/")
    return (SCHEME + bucket).rstrip("/") if text.startswith("s3:/") and bucket else text


def to_bucket_path(url: str) -> str:
    """Return the path of an object for `open_file_system`: the bucket, then the key."""
    return url[len(SCHEME) :]


@lru_cache(1)
def open_file_system() -> Any:
    """Return pyarrow's client of S3, one for each process. Threads may share it."""
    from pyarrow import fs  # takes a third of a second, and only object stores need it  # noqa: PLC0415

    # The SDK in pyarrow does not read this variable, which other AWS tools use.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return fs.S3FileSystem(
        endpoint_override=endpoint or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        allow_delayed_open=True,  # one request for a small object
    )


@contextmanager
def translate_store_errors(url: str) -> Iterator[None]:
    """Raise ObjectsUnavailable for any error of the store at `url`, except FileNotFoundError for a missing object."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: pyarrow's own errors
        # The whole message of the store may contain parts of the request.
        found = re.search(r"AWS Error ([A-Z_]+) during (\w+)", str(error))
        reason = f"{found[1]} during {found[2]}" if found else type(error).__name__
        raise ObjectsUnavailable(
            f"The object store at {url} can't be used: {reason}. Check the network, the bucket, and the AWS_ variables "
            "for credentials, region and endpoint, and try again."
        ) from None


def exists(url: str) -> bool:
    """Return whether there is an object, or a folder of objects. Raises ObjectsUnavailable."""
    with translate_store_errors(url):
        return bool(open_file_system().get_file_info(to_bucket_path(url)).type)


def find_object(url: str) -> tuple[int, int] | None:
    """Return size and time (ns) of an object; None if there is none. Raises ObjectsUnavailable."""
    with translate_store_errors(url):
        info = open_file_system().get_file_info(to_bucket_path(url))
    return None if info.size is None else (info.size, info.mtime_ns)


def read_remote(path: str, limits: Limits, size: int | None = None) -> bytes:
    """Return the bytes of an object.

    `size`: that of the indexed object; an object of another size is not read. Raises UnreadableImage, ImageTooLarge,
    ObjectsUnavailable.
    """
    url = path
    if path.startswith(UPLOAD_SCHEME):
        if limits.objects is None:
            raise UnreadableImage(path, "it was uploaded to an object store; name the store with SIMILE_OBJECTS")
        url = f"{limits.objects}/{get_upload_object(path)}"
    try:
        with translate_store_errors(url), open_file_system().open_input_file(to_bucket_path(url)) as stream:
            if size not in (None, stream.size()):
                raise UnreadableImage(path, CHANGED_REASON)
            check_byte_count(stream.size(), path, limits)
            data = bytes(stream.read())
    except FileNotFoundError:
        raise UnreadableImage(path, "there is no such object") from None
    if not data:
        raise UnreadableImage(path, "the file is empty")
    return data
