"""Read XMP (ISO 16684-1), in a file or in a sidecar. It is XML that anybody may have written.

The parser is expat with a limit on bytes; a document type, and with it every entity, is refused. XMP has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from simile.images.metadata import values

MAX_XMP_BYTES = 2 << 20  # programs that store every step of an edit write some hundred KiB
MAX_ITEMS = 2_000  # of all properties

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_DESCRIPTION_DEPTH = 2  # RDF, Description, property, array, item
_NAMESPACES = {
    "aux": "http://ns.adobe.com/exif/1.0/aux/ ",
    "dc": "http://purl.org/dc/elements/1.1/ ",
    "exif": "http://ns.adobe.com/exif/1.0/ ",
    "exifEX": "http://cipa.jp/exif/1.0/ ",
    "lr": "http://ns.adobe.com/lightroom/1.0/ ",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/ ",
    "tiff": "http://ns.adobe.com/tiff/1.0/ ",
    "xmp": "http://ns.adobe.com/xap/1.0/ ",
}
_NAMES = (
    *("aux:Lens", "dc:description", "dc:rights", "dc:subject", "dc:title", "exif:DateTimeOriginal"),
    *("exif:ExposureTime", "exif:FNumber", "exif:FocalLength", "exif:GPSLatitude", "exif:GPSLongitude"),
    *("exif:ISOSpeedRatings", "exifEX:LensModel", "exifEX:PhotographicSensitivity", "lr:hierarchicalSubject"),
    *("photoshop:DateCreated", "tiff:Make", "tiff:Model", "xmp:Rating"),
)
_READ_PROPERTIES = {_NAMESPACES[name.split(":")[0]] + name.split(":")[1]: name for name in _NAMES}


class _DocumentRefused(Exception):
    """The document has what XMP never has."""


@dataclass(kw_only=True)
class _XmpHandler:
    """Collects the texts of the properties that are read, in the order of the document."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    _path: list[str] = field(default_factory=list)  # names of the open elements, from rdf:RDF on
    _property: str | None = None  # name of the open property, if it is read
    _item: list[str] = field(default_factory=list)  # parts of the text of the open property or item
    _is_default: bool = False  # whether this is the text for readers of any language

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Open an element."""
        if not self._path and name != _RDF + "RDF":
            return
        self._path.append(name)
        depth = len(self._path)
        if depth == _DESCRIPTION_DEPTH:
            for attribute, text in attributes.items():  # the short form of properties with a single text
                if attribute in _READ_PROPERTIES:
                    self._add(_READ_PROPERTIES[attribute], text)
        elif depth == _DESCRIPTION_DEPTH + 1:
            self._property = _READ_PROPERTIES.get(name)
        self._item = []
        self._is_default = attributes.get(_LANGUAGE) == "x-default"

    def end(self, name: str) -> None:
        """Close an element: the text of an item of an array, or of a property without an array, is complete."""
        if not self._path:
            return
        is_item = name == _RDF + "li" and len(self._path) == _DESCRIPTION_DEPTH + 3
        if self._property is not None and (is_item or len(self._path) == _DESCRIPTION_DEPTH + 1):
            self._add(self._property, "".join(self._item), is_default=self._is_default)
        self._path.pop()
        self._item = []
        if len(self._path) == _DESCRIPTION_DEPTH:
            self._property = None

    def add_text(self, text: str) -> None:
        """Add a part of a text."""
        if self._property is not None:
            self._item.append(text)

    def refuse(self, *_: object) -> None:
        """End the parsing."""
        raise _DocumentRefused

    def _add(self, name: str, text: str, *, is_default: bool = False) -> None:
        if not text.strip():
            return
        if sum(map(len, self.texts.values())) >= MAX_ITEMS:
            raise _DocumentRefused
        items = self.texts.setdefault(name, [])
        items.insert(0 if is_default else len(items), text)


def read_xmp(packet: bytes) -> values.FoundValues:
    """Return what an XMP packet tells; nothing if it is too long, damaged or has a document type."""
    texts = _read_properties(packet)
    if not texts:
        return {}

    def get(*names: str) -> str | None:
        return next((texts[name][0] for name in names if name in texts), None)

    position = (values.parse_coordinate(get("exif:GPSLatitude")), values.parse_coordinate(get("exif:GPSLongitude")))
    leaves = (path.rpartition("|")[2] for path in texts.get("lr:hierarchicalSubject", ()))
    return values.collect(
        values.parse_time(get("exif:DateTimeOriginal", "photoshop:DateCreated")),
        values.make_position(*position),
        camera=values.make_camera_name(get("tiff:Make"), get("tiff:Model")),
        lens=values.clean_name(get("exifEX:LensModel", "aux:Lens")),
        exposure_time=values.limit_positive(values.parse_number(get("exif:ExposureTime"))),
        aperture=values.limit_positive(values.parse_number(get("exif:FNumber"))),
        iso=values.limit_iso(values.parse_number(get("exifEX:PhotographicSensitivity", "exif:ISOSpeedRatings"))),
        focal_length=values.limit_positive(values.parse_number(get("exif:FocalLength"))),
        rating=values.limit_rating(values.parse_number(get("xmp:Rating"))),
        title=values.clean_text(get("dc:title")),
        description=values.clean_text(get("dc:description")),
        copyright=values.clean_text(get("dc:rights")),
        keywords=values.clean_keywords([*texts.get("dc:subject", ()), *leaves]),
    )


def _read_properties(packet: bytes) -> dict[str, list[str]]:
    """Return the texts of the properties that are read, by name."""
    if len(packet) > MAX_XMP_BYTES:
        return {}
    handler = _XmpHandler()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = handler.refuse
    parser.StartElementHandler, parser.EndElementHandler = handler.start, handler.end
    parser.CharacterDataHandler = handler.add_text
    try:
        parser.Parse(packet.rstrip(b"\0"), True)
    except (expat.ExpatError, _DocumentRefused, ValueError, LookupError):  # the last two: an encoding that Python lacks
        return {}
    return handler.texts
