"""The map: layouts, clusters, what is kept of them and for how long, the command, and the routes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simile.core.errors import BadSetting, NoDecoder, NothingIndexed, TooFewPictures
from simile.core.settings import Settings
from simile.explore.arrays import ignore_progress
from simile.explore.map.clustering import (
    HDBSCAN_SAMPLE_SIZE,
    NO_CLUSTER,
    check_cluster_settings,
    find_clusters,
    find_typical_rows,
)
from simile.explore.map.map import (
    LatentMap,
    MapSettings,
    compute_hilbert_order,
    compute_percentile_ranks,
    find_map_path,
    load_stored_map,
    make_map,
    measure_reconstruction_errors,
)
from simile.explore.map.projection import check_layout, compute_layout, compute_principal_components, interpolate_points
from simile.explore.map.render import IMAGES_PER_TILE, get_tile, get_tile_bytes, render_map
from simile.explore.map.view import compute_error_ranks, load_labels, make_clusters, make_map_view
from simile.images.rendering.atlas import MAP_PALETTE, UNKNOWN_COLOUR, draw_atlas, get_palette_colours, get_ramp_colours
from simile.indexer.pipeline.job import IndexRequest, index
from simile.indexer.pipeline.uploads import delete_image
from simile.search.searcher import Searcher
from simile.service.schemas.map import MapRequest
from tests.support.commands import run_json, run_simile

RANDOM = np.random.default_rng(0)
BLOBS = np.concatenate([RANDOM.normal(centre, 0.1, (60, 8)) for centre in (0.0, 2.0, -2.0)]).astype(np.float32)
OF_BLOB = np.repeat([0, 1, 2], 60)


# Layouts


def test_pca_finds_the_two_directions_of_most_variance_and_turns_them_the_same_way_each_time() -> None:
    spread = RANDOM.normal(size=(300, 5)) * [1, 9, 0.1, 4, 0.1]
    found = compute_principal_components(spread.astype(np.float32))
    assert np.abs(np.corrcoef(found[:, 0], spread[:, 1])[0, 1]) > 0.99
    assert np.abs(np.corrcoef(found[:, 1], spread[:, 3])[0, 1]) > 0.99
    np.testing.assert_allclose(compute_principal_components(spread[::-1].astype(np.float32))[::-1], found, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (50, 1), (3, 2)])
def test_pca_lays_out_few_images_and_few_dimensions(shape: tuple[int, int]) -> None:
    found = compute_layout(RANDOM.normal(size=shape).astype(np.float32), "pca", 0)
    assert found.shape == (shape[0], 2) and np.isfinite(found).all() and np.abs(found).max() <= 1 + 1e-6


def test_equal_images_lie_on_one_point() -> None:
    assert compute_layout(np.ones((20, 4), np.float32), "pca", 0).tolist() == [[0, 0]] * 20


def test_tsne_keeps_neighbourhoods_and_the_same_seed_gives_the_same_points() -> None:
    found = compute_layout(BLOBS, "tsne", 0)
    middles = np.stack([found[one == OF_BLOB].mean(axis=0) for one in range(3)])
    nearest = np.linalg.norm(found[:, None] - middles[None], axis=2).argmin(axis=1)
    assert (nearest == OF_BLOB).all() and np.abs(found).max() == pytest.approx(1)
    assert (compute_layout(BLOBS, "tsne", 0) == found).all()


def test_what_cannot_be_laid_out_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match="layout can't be 'round'"):
        check_layout("round", 100)
    with pytest.raises(TooFewPictures, match="at least 10"):
        check_layout("tsne", 9)
    monkeypatch.setattr("simile.explore.map.projection.find_spec", lambda _: None)
    with pytest.raises(BadSetting, match=r"simile\[map\]"):
        check_layout("umap", 100)


def test_another_image_lies_amid_its_nearest() -> None:
    points = compute_layout(BLOBS, "pca", 0)
    found = interpolate_points(BLOBS[:60] + 0.01, BLOBS, points)
    assert np.linalg.norm(found - points[:60], axis=1).max() < 0.1
    np.testing.assert_allclose(interpolate_points(BLOBS[5:6], BLOBS, points), points[5:6], atol=1e-3)


def test_the_curve_comes_by_near_points_one_after_the_other() -> None:
    points = RANDOM.uniform(-1, 1, (4000, 2)).astype(np.float32)
    order = compute_hilbert_order(points)
    assert sorted(order) == list(range(4000))
    apart = np.linalg.norm(np.diff(points[order], axis=0), axis=1)
    assert apart.mean() < 0.05 and apart.max() < 0.2


# Clusters


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_clusters_are_found_and_the_largest_comes_first(method: Any) -> None:
    vectors = np.concatenate([BLOBS[:20], BLOBS[60:]])
    found = find_clusters(vectors, method, 3 if method == "kmeans" else 10, 0)
    assert len(set(found[20:80])) == len(set(found[80:])) == 1
    assert found[:20].tolist() == [2] * 20
    rows = find_typical_rows(vectors, found)
    assert all(found[row] == number for number, row in enumerate(rows))


def test_the_typical_image_lies_nearest_to_the_middle() -> None:
    assert find_typical_rows(np.array([[0, 0], [9, 9], [4, 5]], np.float32), np.zeros(3, np.int32)).tolist() == [2]


def test_hdbscan_looks_at_so_many_and_says_so() -> None:
    """Two thick places and more images than are looked at: each goes with those around it, looked at or not."""
    generator = np.random.default_rng(0)
    middles = np.repeat(np.array([[0], [9]], np.float32), HDBSCAN_SAMPLE_SIZE // 2 + 300, axis=0)
    vectors = middles + generator.uniform(-1, 1, middles.shape).astype(np.float32)
    found = find_clusters(vectors, "hdbscan", 100, 0)
    half = len(found) // 2
    assert len(set(found[:half])) == len(set(found[half:])) == 1 and set(found) == {0, 1}
    said = run_simile("map", "--help").output
    assert f"{HDBSCAN_SAMPLE_SIZE:,}" in said and f"{HDBSCAN_SAMPLE_SIZE:,}" in str(
        MapRequest.model_json_schema()["properties"]["clusters"]
    )


def test_hdbscan_leaves_out_what_lies_alone_and_all_where_there_is_nothing_thick() -> None:
    alone = np.concatenate([BLOBS, np.full((1, 8), 30, np.float32)])
    assert find_clusters(alone, "hdbscan", 10, 0)[-1] == NO_CLUSTER
    assert set(find_clusters(BLOBS[:4], "hdbscan", 10, 0)) == {NO_CLUSTER}


def test_there_are_no_more_clusters_than_different_images() -> None:
    assert set(find_clusters(np.ones((30, 3), np.float32), "kmeans", 12, 0)) == {0}
    assert set(find_clusters(np.ones((1, 3), np.float32), "kmeans", None, 0)) == {0}


@pytest.mark.parametrize(("method", "count"), [("kmeans", 1), ("kmeans", 201), ("hdbscan", 1), ("round", 3)])
def test_clusters_that_can_t_be_are_refused(method: str, count: int) -> None:
    with pytest.raises(BadSetting, match="can't be"):
        check_cluster_settings(method, count)


def test_shares_rank_what_is_known() -> None:
    found = compute_percentile_ranks(np.array([3.0, np.nan, 1.0, 2.0]))
    assert found[[0, 2, 3]].tolist() == [1.0, 0.0, 0.5] and np.isnan(found[1])


# What is kept


def test_a_map_is_made_once_and_is_the_same_for_who_reads_it(searcher: Searcher) -> None:
    stages: list[str] = []
    made = make_map(searcher, MapSettings(), lambda stage, *_: stages.append(stage))
    assert len(made.ids) == 120 and len(made.typical) == 12 and any("pca" in stage for stage in stages)
    stages.clear()
    again = make_map(searcher, MapSettings(), lambda stage, *_: stages.append(stage))
    assert again.tag == made.tag and not stages
    assert (again.points == made.points).all() and again.settings == made.settings and again.segment == made.segment
    others = make_map(searcher, MapSettings(clusters="hdbscan", count=5), lambda stage, *_: stages.append(stage))
    assert (others.points == made.points).all() and not any("laying out" in stage for stage in stages)


def test_a_damaged_file_is_made_anew(searcher: Searcher) -> None:
    made = make_map(searcher, MapSettings(), ignore_progress)
    path = find_map_path(searcher, "pca")
    assert path is not None
    for bad in (b"", b"no archive of numpy's", path.read_bytes()[:-200]):
        path.write_bytes(bad)
        assert load_stored_map(searcher, "pca") is None
        assert make_map(searcher, MapSettings(), ignore_progress).tag == made.tag


def test_a_deleted_image_leaves_the_map_and_a_new_one_lies_beside_what_it_is_like(
    searcher: Searcher, digits: Path, tmp_path: Path
) -> None:
    made = make_map(searcher, MapSettings(), ignore_progress)
    delete_image(searcher, 7)
    copy = tmp_path / "more"
    copy.mkdir()
    with Image.open(searcher.read_file(9)[1].paths[0]) as picture:
        changed = picture.copy()
    changed.putpixel((0, 0), 3)
    changed.save(copy / "new.png")
    index(searcher.settings, [copy], IndexRequest())
    kept = load_stored_map(searcher, "pca")
    assert kept is not None and kept.tag == made.tag
    view = make_map_view(searcher, kept)
    assert 7 not in view.ids and len(view.ids) == 120 and (view.newer_count, view.missing_count) == (1, 0)
    (new,) = np.flatnonzero(view.map_rows < 0)
    like = int(np.flatnonzero(view.ids == 9)[0])
    assert np.linalg.norm(view.points[new] - view.points[like]) < 0.1
    assert view.clusters[new] == view.clusters[like] and np.isnan(view.density[new])
    assert make_map(searcher, MapSettings(), ignore_progress).tag != made.tag


def test_clusters_say_what_half_of_them_are_called(searcher: Searcher) -> None:
    for image_id in range(1, 121):
        searcher.catalogue.metadata.set_for_image(
            image_id, {"kind": "even" if image_id % 2 == 0 else "odd", "id": f"{image_id}"}
        )
    view = make_map_view(searcher, make_map(searcher, MapSettings(count=2), ignore_progress))
    (labels,) = load_labels(searcher, view.ids)  # one folder, and as many ids as images, tell nothing apart
    assert labels.source == "kind" and labels.names == ("even", "odd")
    assert labels.label_ids.tolist() == [image_id % 2 for image_id in view.ids.tolist()]
    clusters = make_clusters(view, labels)
    assert [one.number for one in clusters] == [0, 1] and sum(one.size for one in clusters) == 120
    assert all(one.label in ("even", "odd") for one in clusters)


def test_the_folders_of_images_are_labels_without_what_they_have_in_common(
    trained_home: Settings, digits: Path
) -> None:
    for number, path in enumerate(sorted(digits.iterdir())):
        folder = digits / "by kind" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    index(trained_home, [digits], IndexRequest())
    with Searcher(trained_home) as searcher:
        view = make_map_view(searcher, make_map(searcher, MapSettings(), ignore_progress))
        (labels,) = load_labels(searcher, view.ids)
        assert labels.source == "folder" and labels.names == ("0", "1", "2")
        assert render_map(searcher, view, [labels], "label", "dots").startswith(b"\x89PNG")
        with pytest.raises(BadSetting, match=r"no label 'class'.*folder"):
            render_map(searcher, view, [labels], "class", "dots")


def test_errors_are_shares_of_the_images_that_are_reconstructed_better(searcher: Searcher) -> None:
    view = make_map_view(searcher, make_map(searcher, MapSettings(), ignore_progress))
    assert np.isnan(compute_error_ranks(searcher, view)).all()
    measure_reconstruction_errors(searcher, view.ids, ignore_progress)
    found = compute_error_ranks(searcher, view)
    assert found.min() == 0 and found.max() == 1
    worst, best = int(view.ids[found.argmax()]), int(view.ids[found.argmin()])
    measured = {one: searcher.get_image_with_error(one).reconstruction_error or 0.0 for one in (worst, best)}
    assert measured[worst] > measured[best]


def test_an_encoder_without_a_decoder_has_a_map_without_errors(searcher: Searcher, tmp_path: Path) -> None:
    searcher.get_encoder().has_decoder = False
    view = make_map_view(searcher, make_map(searcher, MapSettings(), ignore_progress))
    measure_reconstruction_errors(searcher, view.ids, ignore_progress)
    assert not (searcher.home.root / "measures").exists()
    assert render_map(searcher, view, [], "cluster", "pictures").startswith(b"\x89PNG")
    with pytest.raises(NoDecoder, match="no error"):
        render_map(searcher, view, [], "error", "dots")


def test_an_empty_home_has_no_map(trained_home: Settings) -> None:
    with Searcher(trained_home) as searcher, pytest.raises(NothingIndexed, match="simile index"):
        make_map(searcher, MapSettings(), ignore_progress)


def test_a_map_is_no_pickle(searcher: Searcher, tmp_path: Path) -> None:
    made = make_map(searcher, MapSettings(), ignore_progress)
    made.save(tmp_path / "map.npz")
    assert LatentMap.load(tmp_path / "map.npz").tag == made.tag
    with np.load(tmp_path / "map.npz", allow_pickle=False) as stored:
        assert {stored[name].dtype.hasobject for name in stored.files} == {False}


# Images


def test_a_tile_holds_the_thumbnails_in_the_order_of_the_map_and_forgets_what_was_deleted(searcher: Searcher) -> None:
    view = make_map_view(searcher, make_map(searcher, MapSettings(), ignore_progress))
    tile = get_tile(searcher, view, 0)
    assert list(tile.ids) == view.map.ids.tolist() and len(tile.ids) < IMAGES_PER_TILE
    data = get_tile_bytes(searcher, tile)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP" and image.size == (768, 8 * 48)
        cell = np.asarray(image.convert("L").crop((5 * 48, 0, 6 * 48, 48)).resize((32, 32)), float)
    seen = searcher.get_pixels(int(view.map.ids[5]))[..., 0].astype(float)
    assert np.corrcoef(cell.ravel(), seen.ravel())[0, 1] > 0.9
    assert tile.path.read_bytes() == data == get_tile_bytes(searcher, tile)
    gone = int(view.map.ids[5])
    delete_image(searcher, gone)
    after = get_tile(searcher, make_map_view(searcher, view.map), 0)
    assert after.ids[5] is None and after.tag != tile.tag
    with Image.open(io.BytesIO(get_tile_bytes(searcher, after))) as image:
        assert np.asarray(image.crop((5 * 48, 0, 6 * 48, 48)))[..., 3].max() == 0
    assert not tile.path.exists() and after.path.exists()
    with pytest.raises(BadSetting, match="tiles 0 to 0"):
        get_tile(searcher, view, 1)


def test_a_new_map_takes_the_tiles_of_the_old_one_with_it(searcher: Searcher) -> None:
    first = make_map_view(searcher, make_map(searcher, MapSettings(), ignore_progress))
    tile = get_tile(searcher, first, 0)
    get_tile_bytes(searcher, tile)
    make_map(searcher, MapSettings(count=3), ignore_progress)
    assert not tile.path.exists()


def test_an_atlas_keeps_aspects_and_leaves_clear_what_is_not_there() -> None:
    wide = np.full((10, 20, 3), 200, np.uint8)
    with Image.open(io.BytesIO(draw_atlas([wide, None], 16, 2))) as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert alpha.shape == (16, 32) and alpha[:, 16:].max() == 0
    assert alpha[8, :16].min() == 255 and alpha[:3, :16].max() == 0


def test_colours_say_what_is_not_known() -> None:
    found = get_palette_colours(np.array([0, -1, len(MAP_PALETTE)], np.int32)).tolist()
    assert found[0] == found[2] == [0x4E, 0x79, 0xA7] and found[1] == [
        int(UNKNOWN_COLOUR[at : at + 2], 16) for at in (1, 3, 5)
    ]
    ends = get_ramp_colours(np.array([0, 1, np.nan], np.float32)).tolist()
    assert ends[0] == [0x5B, 0x4A, 0x94] and ends[1] == [0xE8, 0xD3, 0x2A] and ends[2] == found[1]


def test_the_page_and_the_images_have_the_same_colours() -> None:
    script = (Path(__file__).parents[2] / "service/static/map_colours.js").read_text(encoding="utf-8")
    assert all(f'"{colour}"' in script for colour in (*MAP_PALETTE, UNKNOWN_COLOUR))


# The command


def test_the_command_writes_an_image_and_gives_json(home_with_digits: Settings, tmp_path: Path) -> None:
    command = ("map", "--home", home_with_digits.home, "--device", "cpu")
    body = run_json(*command, "--count", 4, "--output", tmp_path / "map.png")
    assert len(body["points"]) == body["images"] == 120 and len(body["clusters"]) == 4
    assert sum(one["size"] for one in body["clusters"]) == 120 and body["clusters"][0]["number"] == 1
    one = body["points"][0]
    assert set(one) == {"image_id", "x", "y", "cluster", "density", "error"} and 0 <= one["error"] <= 1
    with Image.open(tmp_path / "map.png") as image:
        assert image.size[0] == 1680
    for colour in ("density", "error"):
        done = run_simile(*command, "--colour", colour, "--style", "dots", "-o", tmp_path / "b.png")
        assert done.exit_code == 0, done.output
    listed = run_simile(*command, "--clusters", "hdbscan", "--count", 5)
    assert listed.exit_code == 0, listed.output


@pytest.mark.parametrize(
    "wrong", [["--layout", "round"], ["--clusters", "some"], ["--colour", "taste"], ["--output", "map.txt"]]
)
def test_the_command_refuses_by_name_what_it_does_not_know(home_with_digits: Settings, wrong: list[str]) -> None:
    with pytest.raises(BadSetting, match=wrong[1]):
        run_simile("map", "--home", home_with_digits.home, *wrong)
