"""Photo metadata: what is read of each format, which source wins, and what damage costs."""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from simile.core.records import PhotoMetadata
from simile.images.metadata.reader import MetadataReader
from tests.support.images import BERLIN, CAMERA, SHOT, make_bag, make_exif, make_iptc, make_photo, make_xmp

EXIF_VALUES = PhotoMetadata(
    taken=datetime(2024, 5, 6, 7, 8, 9, 250_000),
    taken_offset=120,
    camera="NIKON D850",
    lens="50mm f/1.8",
    exposure_time=0.01,
    aperture=2.8,
    iso=400,
    focal_length=50.0,
    latitude=52.5,
    longitude=13.4,
    copyright="Ada",
    description="exif description",
)
NAME = "photo.jpg"


def read(data: bytes, path: Path | str = NAME, **options: bool) -> PhotoMetadata | None:
    return MetadataReader(**options).read(data, str(path))


def differences(photo: PhotoMetadata | None, other: PhotoMetadata = EXIF_VALUES) -> dict[str, object]:
    """The values of a photo that are not those of another one."""
    assert photo is not None
    expected = asdict(other)
    return {name: value for name, value in asdict(photo).items() if value != expected[name]}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_exif_and_xmp_are_read_from_every_format(format: str) -> None:
    xmp = make_xmp('xmp:Rating="4"', make_bag("dc:subject", "shirt", "red"))
    found = read(make_photo(format, exif=make_exif(), xmp=xmp))
    assert differences(found) == {"rating": 4, "keywords": ("red", "shirt")}


def test_an_image_without_metadata_has_none() -> None:
    assert [read(make_photo(format)) for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF")] == [None] * 5


def test_metadata_after_the_pixels_of_a_png_are_found() -> None:
    with_exif, plain = make_photo("PNG", exif=make_exif()), make_photo("PNG")
    start = with_exif.index(b"eXIf") - 4
    chunk = with_exif[start : start + 12 + int.from_bytes(with_exif[start : start + 4], "big")]
    assert read(plain[:-12] + chunk + plain[-12:]) == EXIF_VALUES


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_iptc_is_read(format: str) -> None:
    iptc = make_iptc(
        *((5, b"a title"), (25, b"beach"), (25, b"beach"), (25, "Caf\u00e9".encode("cp1252")), (120, b"caption")),
        *((116, "\u00a9 Ada".encode()), (55, b"20200102"), (60, b"030405-0330")),
    )
    assert read(make_photo(format, iptc=iptc)) == PhotoMetadata(
        taken=datetime(2020, 1, 2, 3, 4, 5),
        taken_offset=-210,
        title="a title",
        description="caption",
        copyright="\u00a9 Ada",
        keywords=("Caf\u00e9", "beach"),
    )


def test_cameras_are_read_from_exif_first_and_texts_from_xmp() -> None:
    titles = '<rdf:Alt><rdf:li xml:lang="de">Titel</rdf:li><rdf:li xml:lang="x-default">Title</rdf:li></rdf:Alt>'
    xmp = make_xmp(
        'tiff:Model="other" exif:FNumber="4/1" exif:DateTimeOriginal="2001-01-01T00:00:00Z"',
        f"<dc:title>{titles}</dc:title><dc:description>xmp description</dc:description><xmp:Rating>-1</xmp:Rating>"
        + make_bag("lr:hierarchicalSubject", "Places|Berlin"),
    )
    found = read(make_photo(exif=make_exif(), xmp=xmp, iptc=make_iptc((5, b"iptc title"), (25, b"iptc keyword"))))
    texts = {"title": "Title", "description": "xmp description", "rating": -1, "keywords": ("Berlin",)}
    assert differences(found) == texts


def test_xmp_alone_describes_a_camera() -> None:
    xmp = make_xmp(
        'exif:GPSLatitude="52,30.0N" exif:GPSLongitude="13,24,0W" exif:ExposureTime="1/250" aux:Lens="Zoom"',
        "<tiff:Make>SONY</tiff:Make><tiff:Model>ILCE-7M3</tiff:Model>" + make_bag("exif:ISOSpeedRatings", "200"),
    )
    assert read(make_photo(xmp=xmp)) == PhotoMetadata(
        camera="SONY ILCE-7M3", lens="Zoom", exposure_time=1 / 250, iso=200, latitude=52.5, longitude=-13.4
    )


def test_sidecars_override_values_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    data = make_photo(exif=make_exif(), xmp=make_xmp('xmp:Rating="1"', make_bag("dc:subject", "embedded")))
    (tmp_path / "photo.xmp").write_bytes(make_xmp('xmp:Rating="2" exif:FNumber="8/1"'))
    (tmp_path / "photo.jpg.xmp").write_bytes(make_xmp('xmp:Rating="3" tiff:Model="scanner"'))
    changes = {"rating": 3, "aperture": 8.0, "camera": "scanner", "keywords": ("embedded",)}
    assert differences(read(data, path)) == changes
    assert differences(read(data, path, with_sidecars=False)) == {"rating": 1, "keywords": ("embedded",)}


def test_an_unusable_sidecar_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    (tmp_path / "photo.jpg.xmp").mkdir()
    (tmp_path / "photo.xmp").write_bytes(b"<not xml")
    assert read(make_photo(exif=make_exif()), path) == EXIF_VALUES


def test_places_can_be_left_out() -> None:
    assert differences(read(make_photo(exif=make_exif()), with_gps=False)) == {"latitude": None, "longitude": None}


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("EASTMAN KODAK COMPANY", "KODAK DC240", "KODAK DC240"),
        ("OLYMPUS IMAGING CORP.  ", "E-M1", "OLYMPUS E-M1"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("LG Electronics", "", "LG Electronics"),
    ],
)
def test_the_make_is_not_repeated(make: str, model: str, camera: str) -> None:
    found = read(make_photo(exif=make_exif({ExifTags.Base.Make: make, ExifTags.Base.Model: model}, {}, None)))
    assert found == PhotoMetadata(camera=camera)


@pytest.mark.parametrize(
    "shot",
    [
        {ExifTags.Base.DateTimeOriginal: "0000:00:00 00:00:00"},
        {ExifTags.Base.DateTimeOriginal: "2024:02:31 10:00:00"},
        {ExifTags.Base.DateTimeOriginal: "    :  :     :  :  "},
        {ExifTags.Base.OffsetTimeOriginal: "+02:00"},
        {ExifTags.Base.ExposureTime: float("nan")},
        {ExifTags.Base.FNumber: 0.0, ExifTags.Base.ISOSpeedRatings: 0},
    ],
)
def test_impossible_values_are_absent(shot: dict[int, object]) -> None:
    assert read(make_photo(exif=make_exif({}, shot, None))) is None


@pytest.mark.parametrize(
    "change", [{2: (91.0, 0.0, 0.0)}, {4: (181.0, 0.0, 0.0)}, {1: "X"}, {2: (0.0,) * 3, 4: (0.0,) * 3}]
)
def test_impossible_positions_are_absent(change: dict[int, object]) -> None:
    found = read(make_photo(exif=make_exif(CAMERA, SHOT, {**BERLIN, **change})))
    assert differences(found) == {"latitude": None, "longitude": None}


@pytest.mark.parametrize("rating", ["6", "-2", "nan", "stars", "1/0", ""])
def test_impossible_ratings_are_absent(rating: str) -> None:
    assert read(make_photo(xmp=make_xmp(f'xmp:Rating="{rating}"'))) is None


def test_texts_are_clean_and_short() -> None:
    elements = make_bag("dc:subject", "a&#x85;b\n c", "\u202egnp.exe", " ", "x" * 300)
    description = f"<dc:description>{'word ' * 1000}</dc:description>"
    found = read(make_photo("PNG", xmp=make_xmp("", elements + description)))
    assert found is not None
    assert found.keywords == ("a b c", "gnp.exe", "x" * 200)
    assert found.description == ("word " * 400).rstrip()


BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">'
    b'<!ENTITY f SYSTEM "file:///etc/passwd">]>'
)


@pytest.mark.parametrize(
    "xmp",
    [
        BOMB + make_xmp("", "<dc:title>&c;</dc:title>"),
        BOMB + make_xmp("", "<dc:title>&f;</dc:title>"),
        make_xmp()[:-60].replace(b"</rdf:RDF>", b"</rdf:RDF"),
        make_xmp("", f"<dc:title>{'x' * (3 << 20)}</dc:title>"),
        make_xmp("", "<a>" * 100_000),
        b'<?xml version="1.0" encoding="utf-7"?>' + make_xmp(),
        b"\0" * 1000,
    ],
    ids=["entities", "file", "damaged", "huge", "deep", "encoding", "zeros"],
)
def test_hostile_xmp_costs_only_itself(xmp: bytes) -> None:
    started = time.process_time()
    if len(xmp) < 65_000:
        assert read(make_photo(exif=make_exif(), xmp=xmp)) == EXIF_VALUES
    assert read(make_photo("WEBP", exif=make_exif(), xmp=xmp)) == EXIF_VALUES
    assert time.process_time() - started < 2


def test_many_items_are_bounded() -> None:
    xmp = make_xmp("", make_bag("dc:subject", *map(str, range(50_000))))
    started = time.process_time()
    assert read(make_photo("WEBP", exif=make_exif(), xmp=xmp)) == EXIF_VALUES
    assert time.process_time() - started < 2


def test_exif_tags_that_point_outside_of_the_block_cost_only_themselves() -> None:
    block = Image.Exif()
    block.update({ExifTags.Base.Make: "a longer name of a make", ExifTags.Base.Model: "D850"})
    data = bytearray(block.tobytes())
    entry = data.index(b"\x0f\x01\x02\0") if data[6:8] == b"II" else data.index(b"\x01\x0f\0\x02")
    data[entry + 4 : entry + 12] = b"\xff" * 8
    assert read(make_photo(exif=bytes(data))) == PhotoMetadata(camera="D850")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
def test_damage_anywhere_raises_nothing(format: str) -> None:
    iptc = make_iptc((25, b"beach")) if format in ("JPEG", "TIFF") else None
    good = make_photo(format, exif=make_exif(), xmp=make_xmp(), iptc=iptc)
    dice = random.Random(0)
    for _ in range(300):
        data = bytearray(good[: dice.randrange(len(good))] if dice.random() < 0.3 else good)
        for _ in range(dice.randrange(1, 20)):
            if data:
                data[dice.randrange(min(len(data), 2000))] = dice.choice((0, 255, dice.randrange(256)))
        read(bytes(data))
