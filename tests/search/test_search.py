"""Search by file, id and vector lead to the same hits; reconstructions; vectors written to a file."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import EncoderMismatch, NoSuchImage, NotFinite, NothingIndexed, UnreadableImage
from simile.core.settings import Settings, load_settings
from simile.images.encoding import encode_png
from simile.indexer.embed import embed
from simile.indexer.maintenance.verify import verify_home
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import add_upload, delete_image
from simile.indexer.training.train import TrainingRequest, train_on_sources
from simile.search.contact_sheet import write_contact_sheet, write_reconstruction
from simile.search.searcher import Searcher, SearchQuery
from simile.store.index.metric import make_index_vectors


def first_path(searcher: Searcher) -> Path:
    return Path(searcher.list_images(limit=1)[0].paths[0])


def test_file_id_and_vector_give_the_same_hits(searcher: Searcher) -> None:
    path = first_path(searcher)
    by_file = searcher.by_file(path, name=path.name, limit=6)
    by_vector = searcher.by_vector(by_file.query.mu.tolist(), limit=6)
    by_id = searcher.by_id(1, limit=5)
    assert [hit.image_id for hit in by_file.hits] == [hit.image_id for hit in by_vector.hits]
    assert by_file.hits[0].image_id == 1
    assert [hit.image_id for hit in by_file.hits[1:]] == [hit.image_id for hit in by_id.hits]
    for one, other in zip(by_file.hits[1:], by_id.hits, strict=True):
        assert one.distance == pytest.approx(other.distance, abs=1e-5)


def test_hits_are_the_nearest_by_brute_force(searcher: Searcher) -> None:
    encoder = searcher.get_encoder()
    mus = {n: searcher.catalogue.embeddings.get(n, encoder.fingerprint).mu for n in range(1, 121)}
    vectors = make_index_vectors(np.stack(list(mus.values())), encoder.index_dims, encoder.metric)
    distances = np.linalg.norm(vectors - vectors[16], axis=1)
    distances[16] = math.inf
    hits = searcher.by_id(17, limit=10).hits
    assert [hit.image_id for hit in hits] == [int(n) + 1 for n in np.argsort(distances)[:10]]
    assert [hit.distance for hit in hits] == pytest.approx(np.sort(distances)[:10].tolist(), abs=1e-5)
    assert hits[0].score == pytest.approx(1 / (1 + hits[0].distance))


def test_offset_goes_on_where_the_first_page_ended(searcher: Searcher) -> None:
    whole = searcher.by_id(3, limit=8).hits
    assert searcher.by_id(3, limit=4).hits + searcher.by_id(3, limit=4, offset=4).hits == whole
    assert searcher.by_id(3, limit=10, offset=10_000).hits == []
    assert len(searcher.by_id(3, limit=1000).hits) == 119


def test_wrong_queries_are_refused_by_name(searcher: Searcher, tmp_path: Path) -> None:
    with pytest.raises(EncoderMismatch, match="3 numbers"):
        searcher.by_vector([1.0, 2.0, 3.0])
    with pytest.raises(NotFinite):
        searcher.by_vector([math.nan] * 16)
    with pytest.raises(NoSuchImage, match="no image 999"):
        searcher.by_id(999)
    (tmp_path / "note.jpg").write_text("no picture")
    with pytest.raises(UnreadableImage, match=r"note\.jpg: not an image"):
        searcher.by_file(tmp_path / "note.jpg", name="note.jpg")


def test_an_empty_home_says_what_to_run(trained_home: Settings, tmp_path: Path) -> None:
    with Searcher(trained_home) as searcher, pytest.raises(NothingIndexed, match="simile index"):
        searcher.by_file(encode_png(np.zeros((32, 32, 3), np.uint8)), name="black.png")
    with pytest.raises(NothingIndexed, match="simile index"):
        Searcher(load_settings(home=tmp_path / "absent"))


def test_an_upload_is_found_by_the_next_search_of_every_searcher(home_with_digits: Settings) -> None:
    data = encode_png(np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8))
    with Searcher(home_with_digits) as one, Searcher(home_with_digits) as other:
        assert len(other.by_id(1, limit=200).hits) == 119
        image_id, created = add_upload(one, data, name="noise.png")
        assert created
        assert add_upload(one, data, name="again.png") == (image_id, False)
        assert other.by_file(data, name="noise.png").hits[0].image_id == image_id
        delete_image(one, image_id)
        assert image_id not in {hit.image_id for hit in other.by_file(data, name="noise.png", limit=200).hits}
        assert list((home_with_digits.home / "uploads").iterdir()) == []
        assert add_upload(one, data, name="back.png") == (image_id + 1, True)


def test_a_reconstruction_needs_no_file(searcher: Searcher, tmp_path: Path) -> None:
    photos = first_path(searcher).parent
    copied = shutil.copytree(photos, tmp_path / "photos")
    assert copied.is_dir()
    seen = Image.open(io.BytesIO(searcher.reconstruct_image(5)))
    assert seen.size == (32, 32)


def test_reconstruction_keeps_the_aspect_of_the_image(searcher: Searcher, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    wide.write_bytes(encode_png(np.zeros((50, 100, 3), np.uint8)))
    original, seen, query = searcher.reconstruct_file(wide, name="wide.png")
    assert original.shape == (50, 100, 3)
    assert seen.shape[1] == 2 * seen.shape[0]
    assert (query.width, query.height) == (100, 50)
    error = write_reconstruction(searcher, wide, tmp_path / "out.png")
    assert error == query.reconstruction_error
    assert Image.open(io.BytesIO((tmp_path / "out.png").read_bytes())).width > 2 * 100


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_a_sheet_shows_query_and_hits(searcher: Searcher, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"sheet.{suffix}"
    path = first_path(searcher)
    result = searcher.by_file(path, name="<b>&name.png", limit=3)
    write_contact_sheet(searcher, [(result, searcher.get_query_pixels(path))], output)
    if suffix == "png":
        assert Image.open(io.BytesIO(output.read_bytes())).width > 500
    else:
        page = output.read_text()
        assert page.count("<img") == 2 + 2 * 3
        assert "<b>" not in page


def test_embed_writes_what_index_would_store(home_with_digits: Settings, tmp_path: Path) -> None:
    with Searcher(home_with_digits) as searcher:
        encoder = searcher.get_encoder()
        photos = first_path(searcher).parent
        stored = searcher.catalogue.embeddings.get(2, encoder.fingerprint)
    other = tmp_path / "Ещё одна папка"
    other.mkdir()
    (other / "bad.jpg").write_text("no picture")
    shutil.copy(sorted(photos.iterdir())[1], other / "copy.png")
    embed(home_with_digits, [other, photos], encoder).save(tmp_path / "vectors.npz")
    arrays = np.load(tmp_path / "vectors.npz")  # no pickle
    assert arrays["paths"].tolist() == [str(other / "copy.png"), *map(str, sorted(photos.iterdir()))]
    assert arrays["mu"].shape == arrays["sigma"].shape == arrays["vector"].shape == (121, 16)
    for row in (0, 2):
        np.testing.assert_allclose(arrays["mu"][row], stored.mu, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(2 * np.log(arrays["sigma"][row]), stored.log_variance, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(arrays["vector"], axis=1), 1, rtol=1e-5)  # cosine


def test_embed_lists_what_it_left_out(home_with_digits: Settings, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "good.png").write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))
    with Searcher(home_with_digits) as searcher:
        embedded = embed(home_with_digits, [tmp_path / "good.png", tmp_path / "bad.jpg"], searcher.get_encoder())
        assert [Path(failure.path).name for failure in embedded.failures] == ["bad.jpg"]
        with pytest.raises(UnreadableImage, match="not an image"):
            embed(home_with_digits, [tmp_path / "bad.jpg"], searcher.get_encoder())


def test_an_upload_outlives_the_folder_that_held_the_same_image(home_with_digits: Settings, tmp_path: Path) -> None:
    photos = shutil.copytree(photos_of(home_with_digits), tmp_path / "photos")
    extra = photos / "extra.png"
    extra.write_bytes(encode_png(np.full((32, 32, 3), 77, np.uint8)))
    index(home_with_digits, [photos], IndexRequest())
    with Searcher(home_with_digits) as searcher:
        data = extra.read_bytes()
        image_id, created = add_upload(searcher, data, name="extra.png")
        assert not created
        extra.unlink()
        index(home_with_digits, [photos], IndexRequest(prune=True))
        assert searcher.read_file(image_id)[0] == data
    assert verify_home(home_with_digits) == []


def photos_of(settings: Settings) -> Path:
    with Searcher(settings) as searcher:
        return first_path(searcher).parent


def test_embed_passes_over_the_reports_of_a_home_among_the_images(home_with_digits: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))
    with Searcher(home_with_digits) as searcher:
        assert embed(home_with_digits, [tmp_path], searcher.get_encoder()).paths == [str(tmp_path / "a.png")]


def test_an_image_whose_file_is_gone_is_shown_as_the_model_saw_it(home_with_digits: Settings, tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    path.write_bytes(encode_png(np.full((32, 32, 3), 70, np.uint8)))
    index(home_with_digits, [path], IndexRequest())
    path.unlink()
    with Searcher(home_with_digits) as searcher:
        newest = searcher.count_images()
        assert np.array_equal(searcher.get_query_pixels(newest), searcher.get_reconstruction_pixels(newest))


def test_a_search_that_another_encoder_comes_between_is_made_with_that_one(home_with_digits: Settings) -> None:
    with Searcher(home_with_digits) as searcher:
        path = first_path(searcher)
        seen, asked = searcher.by_file(path, name="before"), searcher.prepare_query_image(path, "between")
        overrides = {"latent_dim": 8, "width": 8, "epochs": 1}
        other = train_on_sources(
            home_with_digits, [path.parent], TrainingRequest(recipe="vae", overrides=overrides), lambda _: None
        )
        index(home_with_digits, [path.parent], IndexRequest(encoder=other["fingerprint"]))
        result = searcher.search(SearchQuery((asked,)))
    assert asked.encoder != other["fingerprint"]
    assert (len(seen.query.mu), len(result.query.mu)) == (16, 8)
    assert result.hits[0].image_id == seen.hits[0].image_id == 1
