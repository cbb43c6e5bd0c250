"""Responses with an image's file: byte ranges, and 304 for a known ETag."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from simile.core.errors import UnreadableImage
from simile.images.formats import has_image_signature
from simile.images.privacy.strip import strip_metadata
from simile.search.searcher import Searcher
from simile.service.middleware.headers import CACHE_AND_REVALIDATE, FILE_POLICY, is_not_modified

_RANGE_PATTERN = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def make_image_file_response(request: Request, searcher: Searcher, image_id: int, *, keep_metadata: bool) -> Response:
    """Return the file of an image, or 304 if the client has it.

    Only the bytes that were indexed are served: the path may lead to another file now.

    Args:
        request: Its headers choose a byte range and name a known ETag.
        searcher: Finds the file.
        image_id: The id of the image.
        keep_metadata: Keep the metadata that a camera wrote into the file; else remove it.

    Raises:
        NoSuchImage: The id is unknown.
        HTTPException: 404 if the file is unreadable or has changed, 416 for a range after its end.
    """
    etag = f'"{searcher.get_image(image_id).sha256}-{"whole" if keep_metadata else "plain"}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE_AND_REVALIDATE,
        "Content-Security-Policy": FILE_POLICY,
    }
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    try:
        data, path, media_type = searcher.read_file(image_id)
        if not keep_metadata:
            data, media_type = strip_metadata(data, path.name, searcher.limits)
    except UnreadableImage as error:  # a file that has changed since it was indexed
        raise HTTPException(404, str(error)) from error
    # Only raster images keep their media type: SVG and HTML could run scripts on this origin.
    is_safe = media_type.startswith("image/") and "svg" not in media_type and has_image_signature(data[:32])
    return _make_range_response(request, data, headers, media_type if is_safe else "application/octet-stream")


def _make_range_response(request: Request, data: bytes, headers: dict[str, str], media_type: str) -> Response:
    """Apply the Range header (RFC 9110, 14): one byte range, 416 for a range after the end, else the whole file."""
    match = _RANGE_PATTERN.fullmatch(request.headers.get("range", ""))
    first, last = match.groups() if match else ("", "")
    is_stale = request.headers.get("if-range") not in (None, headers["ETag"])
    if (not first and not last) or is_stale or (first and last and int(last) < int(first)):
        return Response(data, headers=headers, media_type=media_type)
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start >= len(data) or (not first and not int(last)):
        detail = f"The file has {len(data):,} bytes: the requested range starts after its end."
        raise HTTPException(416, detail, {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Response(data[start : end + 1], 206, headers=headers, media_type=media_type)
