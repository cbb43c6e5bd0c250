"""Pictures as files: whole or a stretch of them, and not again for who has them already."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import UnreadableImage
from simile.images.privacy.strip import strip_metadata
from simile.images.sources.reader import read_bytes
from simile.search.searcher import Searcher
from simile.service.middleware.headers import CACHE_AND_REVALIDATE, FILE_POLICY, is_not_modified

_RANGE_PATTERN = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def make_image_file_response(request: Request, searcher: Searcher, image_id: int, *, keep_metadata: bool) -> Response:
    """The image's own file, without what a camera wrote into it unless `keep`; 304 where its ETag is known.

    The ETag is of the bytes that lie there now: whoever changes a file changes it. Raises NoSuchImage, and 404 where
    the file can't be read any more.
    """
    path, media_type = searcher.get_file(image_id)
    try:
        data = read_bytes(path, searcher.limits)
        etag = f'"{hashlib.sha256(data).hexdigest()}-{"whole" if keep_metadata else "plain"}"'
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Cache-Control": CACHE_AND_REVALIDATE,
            "Content-Security-Policy": FILE_POLICY,
        }
        if is_not_modified(request, etag):
            return Response(status_code=304, headers=headers)
        if not keep_metadata:
            data, media_type = strip_metadata(data, Path(path).name, searcher.limits)
    except UnreadableImage as error:  # a file that has changed since it was indexed
        raise HTTPException(404, str(error)) from error
    return _make_range_response(request, data, headers, _get_safe_media_type(media_type))


def _make_range_response(request: Request, data: bytes, headers: dict[str, str], media_type: str) -> Response:
    """RFC 9110, 14: one stretch of bytes where one is asked for, 416 where it lies behind the end; else all of it."""
    wanted = _RANGE_PATTERN.fullmatch(request.headers.get("range", ""))
    if wanted is None or wanted.groups() == ("", "") or request.headers.get("if-range") not in (None, headers["ETag"]):
        return Response(data, headers=headers, media_type=media_type)
    first, last = wanted.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if first and last and int(last) < start:  # makes no sense: as if it were not there
        return Response(data, headers=headers, media_type=media_type)
    if start >= len(data) or (not first and not int(last)):
        detail = f"The file has {len(data):,} bytes: the stretch that was asked for lies behind its end."
        raise HTTPException(416, detail, {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers=headers, media_type=media_type)


def _get_safe_media_type(media_type: str) -> str:
    """Only pictures are served as what they are: SVG and HTML could run scripts under this address."""
    return media_type if media_type.startswith("image/") and "svg" not in media_type else "application/octet-stream"
