"""Read EXIF (CIPA DC-008): a block of a JPEG, PNG, WebP or HEIF that is built like a TIFF, or a TIFF itself."""

from __future__ import annotations

from simile.images.metadata import values
from simile.images.metadata.tags import TagReader
from simile.images.tiff import Buffer

MAX_TEXT_BYTES = 64 * 1024

_DESCRIPTION, _MAKE, _MODEL, _RATING, _COPYRIGHT, _EXIF, _GPS = 270, 271, 272, 18246, 33432, 34665, 34853
_EXPOSURE_TIME, _F_NUMBER, _ISO, _EXPOSURE_INDEX, _FOCAL_LENGTH, _LENS = 33434, 33437, 34855, 34866, 37386, 42036
_TIMES = ((36867, 37521, 36881), (36868, 37522, 36882))  # original, digitised: time, parts of a second, offset
_LATITUDE_SIDE, _LATITUDE, _LONGITUDE_SIDE, _LONGITUDE = 1, 2, 3, 4
_MAIN_TAGS = frozenset((_DESCRIPTION, _MAKE, _MODEL, _RATING, _COPYRIGHT, _EXIF, _GPS))
_EXIF_TAGS = frozenset((_EXPOSURE_TIME, _F_NUMBER, _ISO, _EXPOSURE_INDEX, _FOCAL_LENGTH, _LENS, *sum(_TIMES, ())))
_GPS_TAGS = frozenset((_LATITUDE_SIDE, _LATITUDE, _LONGITUDE_SIDE, _LONGITUDE))
_UNKNOWN_ISO = 65535  # the tag has 16 bits; higher values are in the exposure index


def read_exif(block: Buffer) -> values.FoundValues:
    """Return what an EXIF block tells; damage costs only the tags that it hits."""
    main = TagReader(block, _MAIN_TAGS)
    exif = main.read_directory(_EXIF, _EXIF_TAGS)
    times = (values.parse_time(*(_get_text(exif, tag) for tag in tags)) for tags in _TIMES)
    iso = exif.get_number(_ISO)
    return values.collect(
        next((time for time in times if time[0] is not None), (None, None)),
        _read_position(main.read_directory(_GPS, _GPS_TAGS)),
        camera=values.make_camera_name(_get_text(main, _MAKE), _get_text(main, _MODEL)),
        lens=values.clean_name(_get_text(exif, _LENS)),
        exposure_time=values.limit_positive(exif.get_number(_EXPOSURE_TIME)),
        aperture=values.limit_positive(exif.get_number(_F_NUMBER)),
        iso=values.limit_iso(exif.get_number(_EXPOSURE_INDEX) if iso == _UNKNOWN_ISO else iso),
        focal_length=values.limit_positive(exif.get_number(_FOCAL_LENGTH)),
        rating=values.limit_rating(main.get_number(_RATING)),
        description=values.clean_text(_get_text(main, _DESCRIPTION)),
        copyright=values.clean_text(_get_text(main, _COPYRIGHT)),
    )


def _get_text(tags: TagReader, tag: int) -> str | None:
    """Return a text. The standard says ASCII, but programs write UTF-8."""
    data = tags.get_bytes(tag, MAX_TEXT_BYTES)
    return None if data is None else values.decode_text(data)


def _read_position(gps: TagReader) -> tuple[float | None, float | None]:
    """Return latitude and longitude."""
    degrees = []
    for tag, side_tag, sides in ((_LATITUDE, _LATITUDE_SIDE, "NS"), (_LONGITUDE, _LONGITUDE_SIDE, "EW")):
        parts, side = gps.get_numbers(tag), (_get_text(gps, side_tag) or sides[0])[0].upper()
        degrees.append(values.make_degrees(parts, side) if 0 < len(parts) <= 3 and side in sides else None)
    return values.make_position(*degrees)
