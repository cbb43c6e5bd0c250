"""Photo metadata in the catalogue: stored with the file, replaced when it is read again, deleted with it."""

from __future__ import annotations

import shutil
import tarfile
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from simile.core.errors import NothingIndexed
from simile.core.records import IndexSummary, PhotoMetadata
from simile.core.settings import Settings, load_settings
from simile.images.sources.paths import PathPatterns
from simile.indexer.pipeline import job
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.metadata import update_photo_metadata
from simile.indexer.pipeline.uploads import add_upload, delete_image
from simile.search.searcher import Searcher
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database.tables import PhotoKeywordRow, PhotoMetadataRow
from simile.store.home import Home
from tests.support.images import make_bag, make_exif, make_photo, make_xmp

XMP = make_xmp('xmp:Rating="3"', make_bag("dc:subject", "red", "shirt"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos with metadata and an image without."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "camera.jpg").write_bytes(make_photo(seed=1, exif=make_exif()))
    (folder / "rated.png").write_bytes(make_photo("PNG", seed=2, xmp=XMP))
    (folder / "plain.png").write_bytes(make_photo("PNG", seed=3))
    return folder


def go(settings: Settings, photos: Path, **request: bool) -> IndexSummary:
    return index(settings, [photos], IndexRequest(**request))  # type: ignore[arg-type]


def read(settings: Settings, folder: Path) -> dict[str, PhotoMetadata]:
    """The stored metadata of the files in a folder, by name."""
    with Catalogue(Home.from_settings(settings)) as catalogue:
        paths = catalogue.files.find_under([str(folder)])
        return {Path(path).name: photo for path, photo in catalogue.photo_metadata.get_for_files(paths).items()}


def count_rows(settings: Settings) -> tuple[int, int]:
    with Catalogue(Home.from_settings(settings)) as catalogue, catalogue.begin_read() as connection:
        tables = (PhotoMetadataRow, PhotoKeywordRow)
        counts = [connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables]
        return counts[0], counts[1]


def test_indexing_stores_what_a_photo_tells(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    found = read(trained_home, photos)
    assert sorted(found) == ["camera.jpg", "rated.png"]
    camera = found["camera.jpg"]
    assert (camera.camera, camera.latitude, camera.taken_offset) == ("NIKON D850", 52.5, 120)
    assert (camera.taken, camera.taken_text) == (
        datetime(2024, 5, 6, 7, 8, 9, 250_000),
        "2024-05-06T07:08:09.250000+02:00",
    )
    assert found["rated.png"] == PhotoMetadata(rating=3, keywords=("red", "shirt"))


def test_times_sort_and_keywords_have_an_index(trained_home: Settings, photos: Path) -> None:
    shot = {36867: "2019:01:01 00:00:00"}
    (photos / "older.jpg").write_bytes(make_photo(seed=4, exif=make_exif({}, shot, None)))
    go(trained_home, photos)
    with Catalogue(Home.from_settings(trained_home)) as catalogue, catalogue.begin_read() as connection:
        taken = connection.scalars(select(PhotoMetadataRow.taken).order_by(PhotoMetadataRow.taken.desc()))
        assert [time.year for time in taken if time] == [2024, 2019]
        later = select(func.count()).where(PhotoMetadataRow.taken >= datetime(2024, 5, 6))
        assert connection.scalar(later) == 1
    with Catalogue(Home.from_settings(trained_home)) as catalogue:
        assert sorted(keyword for _, keyword in catalogue.photo_metadata.iterate_keywords()) == ["red", "shirt"]


def test_a_file_that_is_read_again_replaces_its_metadata(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    (photos / "camera.jpg").write_bytes(make_photo(seed=1, xmp=make_xmp('xmp:Rating="5"')))
    (photos / "rated.png").write_bytes(make_photo("PNG", seed=2))
    (photos / "plain.png.xmp").write_bytes(XMP)
    assert go(trained_home, photos).ignored == 0
    assert read(trained_home, photos) == {"camera.jpg": PhotoMetadata(rating=5)}  # a sidecar is no change of the file
    go(trained_home, photos, reread=True)
    assert read(trained_home, photos)["plain.png"] == PhotoMetadata(rating=3, keywords=("red", "shirt"))
    (photos / "plain.png.xmp").unlink()
    go(trained_home, photos, reread=True)
    assert (list(read(trained_home, photos)), count_rows(trained_home)) == (["camera.jpg"], (1, 0))


def test_each_copy_has_the_metadata_of_its_sidecar(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    shutil.copy(photos / "plain.png", photos / "a copy.png")
    (photos / "a copy.xmp").write_bytes(make_xmp('xmp:Rating="1"'))
    go(trained_home, photos)
    found = read(trained_home, photos)
    assert (found["a copy.png"], "plain.png" in found) == (PhotoMetadata(rating=1), False)
    with Searcher(trained_home) as searcher:
        (image,) = [image for image in searcher.catalogue.images.get_page(9) if len(image.paths) == 2]
        assert searcher.catalogue.photo_metadata.get_for_images([image.id]) == {image.id: PhotoMetadata(rating=1)}


def test_metadata_follow_a_moved_file_and_end_with_a_removed_one(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    (photos / "rated.png").rename(photos / "moved.png")
    (photos / "moved.xmp").write_bytes(make_xmp('xmp:Rating="4"'))
    assert go(trained_home, photos).moved == 1
    assert read(trained_home, photos)["moved.png"] == PhotoMetadata(rating=4, keywords=("red", "shirt"))
    (photos / "moved.png").unlink()
    assert go(trained_home, photos, prune=True).removed == 1
    assert count_rows(trained_home) == (1, 0)


def test_a_damaged_block_does_not_keep_an_image_out(trained_home: Settings, photos: Path) -> None:
    (photos / "bad.webp").write_bytes(make_photo("WEBP", seed=5, exif=b"Exif\0\0MM\0*\xff" * 9, xmp=b"<!DOCTYPE a>"))
    summary = go(trained_home, photos)
    assert (summary.failures, summary.embedded, count_rows(trained_home)[0]) == ([], 4, 2)


def test_places_are_stored_only_if_the_setting_allows_it(trained_home: Settings, photos: Path) -> None:
    settings = trained_home.model_copy(update={"gps": False})
    go(settings, photos)
    with Searcher(settings) as searcher:
        image_id, _ = add_upload(searcher, make_photo(seed=6, exif=make_exif()), name="upload.jpg")
        uploaded = searcher.catalogue.photo_metadata.get_for_images([image_id])[image_id]
    stored = [read(settings, photos)["camera.jpg"], uploaded]
    assert [(photo.camera, photo.latitude, photo.longitude) for photo in stored] == [("NIKON D850", None, None)] * 2


def test_uploads_have_the_metadata_of_their_bytes_alone(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    (photos / "upload.jpg.xmp").write_bytes(XMP)
    data = make_photo(seed=6, exif=make_exif())
    with Searcher(trained_home) as searcher:
        photo_metadata = searcher.catalogue.photo_metadata
        image_id, _ = add_upload(searcher, data, name=str(photos / "upload.jpg"))
        stored = photo_metadata.get_for_images([image_id])[image_id]
        assert (stored.camera, stored.rating) == ("NIKON D850", None)
        again, _ = add_upload(searcher, (photos / "rated.png").read_bytes(), name="rated.png")
        assert photo_metadata.get_for_images([again])[again].rating == 3
        delete_image(searcher, image_id)
        assert photo_metadata.get_for_images([image_id]) == {}


def test_only_changes_are_counted(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    path = str(photos / "plain.png")
    with Catalogue(Home.from_settings(trained_home)) as catalogue:
        photo = PhotoMetadata(rating=0, iso=100)
        assert [catalogue.photo_metadata.set_for_files({path: photo, "/unknown": None}) for _ in range(2)] == [1, 0]
        assert catalogue.photo_metadata.get_for_files([path]) == {path: photo}
        assert catalogue.photo_metadata.set_for_files({path: None}) == 1
        assert catalogue.photo_metadata.get_for_files([path]) == {}


def update(settings: Settings, *sources: Path) -> tuple[int, int, int, int, int]:
    summary = update_photo_metadata(settings, list(sources), PathPatterns())
    return summary.read, summary.described, summary.updated, summary.outdated, summary.missing


def forget(settings: Settings) -> None:
    """Delete all photo metadata, as in a home of an earlier version."""
    with Catalogue(Home.from_settings(settings)) as catalogue:
        catalogue.photo_metadata.set_for_files(dict.fromkeys(path for _, path in catalogue.files.iterate_paths()))


def test_an_existing_home_gets_metadata_without_embedding(
    trained_home: Settings, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(photos / "packed.tar", "w") as archive:
        archive.add(photos / "rated.png", "packed.png")
    go(trained_home, photos)
    go(trained_home, photos / "packed.tar")
    with Searcher(trained_home) as searcher:
        upload_id, _ = add_upload(searcher, make_photo(seed=6, exif=make_exif()), name="upload.jpg")
    before = read(trained_home, photos)
    forget(trained_home)
    assert read(trained_home, photos) == {}
    monkeypatch.setattr(job, "FileEmbedder", None)
    (photos / "new.png").write_bytes(make_photo("PNG", seed=9))
    assert update(trained_home, photos, photos / "packed.tar") == (5, 4, 4, 1, 0)
    assert read(trained_home, photos) == before
    assert "packed.png" in before
    with Searcher(trained_home) as searcher:
        assert searcher.catalogue.photo_metadata.get_for_images([upload_id])[upload_id].iso == 400


def test_sidecars_are_read_again_and_changed_files_are_left_to_indexing(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    (photos / "plain.png.xmp").write_bytes(XMP)
    (photos / "rated.png").unlink()
    (photos / "camera.jpg").write_bytes(make_photo(seed=1, xmp=XMP))
    assert update(trained_home, photos) == (1, 1, 1, 1, 1)
    found = read(trained_home, photos)
    assert (found["plain.png"].rating, found["camera.jpg"].camera) == (3, "NIKON D850")


def test_a_file_that_cannot_be_read_keeps_its_metadata(trained_home: Settings, photos: Path) -> None:
    go(trained_home, photos)
    facts = (photos / "camera.jpg").stat()
    settings = trained_home.model_copy(update={"max_bytes": facts.st_size - 1})
    summary = update_photo_metadata(settings, [photos], PathPatterns())
    assert "camera.jpg" in [Path(failure.path).name for failure in summary.failures]
    assert read(trained_home, photos)["camera.jpg"].camera == "NIKON D850"


def test_without_a_home_there_is_nothing_to_update(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(NothingIndexed, match="simile index PHOTOS"):
        update(load_settings(home=tmp_path / "nowhere"), photos)
    assert not (tmp_path / "nowhere").exists()
