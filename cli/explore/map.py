"""The command that lays out the collection in two dimensions: map."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.map.view import MapCluster, MapView
    from simile.search.searcher import Searcher

MAP_RESUME_HINT = "What was measured so far is kept: run the same command again."


def map_collection(
    layout: Annotated[
        str,
        typer.Option(help="pca: at once. tsne, umap: by neighbourhoods, in minutes; umap needs `simile[map]`."),
    ] = "pca",
    clusters: Annotated[
        str,
        typer.Option(
            help="kmeans: each picture in one. hdbscan: thick places only, among 10,000 pictures at most: others go "
            "with their nearest of them."
        ),
    ] = "kmeans",
    count: Annotated[
        int | None,
        typer.Option(min=2, help="kmeans: how many clusters [12]. hdbscan: pictures of the smallest [1 %]."),
    ] = None,
    colour: Annotated[
        str, typer.Option(help="cluster, density, error, folder, or what is said of pictures, such as class.")
    ] = "cluster",
    style: Annotated[str, typer.Option(help="pictures: as many as have room. dots: none.")] = "pictures",
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of umap, tsne and kmeans.")] = 0,
    home: options.HomeOption = None,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Lay the collection out in a plane, find what goes together, and keep it for the page at /map."""
    from simile.core.atomic_write import check_output_path, write_output_file
    from simile.explore.map.map import MapSettings, make_map, measure_reconstruction_errors
    from simile.explore.map.render import find_labels, render_map
    from simile.explore.map.view import load_labels, make_clusters, make_map_view
    from simile.search.searcher import Searcher

    if output_path is not None:
        check_output_path(output_path, (".png",))
    wish = MapSettings(layout, clusters, count, seed)  # type: ignore[arg-type]  # make_map checks them
    with Searcher(load_settings(home=home, device=device)) as searcher:
        with ProgressReporter(MAP_RESUME_HINT, json=json) as reporter:
            view = make_map_view(searcher, make_map(searcher, wish, reporter.on_stage))
            if colour == "error" or json:
                measure_reconstruction_errors(searcher, view.ids, reporter.on_stage)
        labels = load_labels(searcher, view.ids)
        if colour not in ("cluster", "density", "error"):
            find_labels(labels, colour)
        found = make_clusters(view, labels[0] if labels else None)
        if output_path is not None:
            write_output_file(output_path, render_map(searcher, view, labels, colour, style))  # type: ignore[arg-type]
        if json:
            output.write_json(_make_map_json(searcher, view, found, output_path))
        else:
            _write_clusters(searcher, found, output_path)


def _write_clusters(searcher: Searcher, map_clusters: list[MapCluster], output_path: Path | None) -> None:
    paths = searcher.catalogue.images.get_many([one.typical for one in map_clusters if one.typical is not None])
    for one in map_clusters:
        known = paths.get(one.typical or 0)
        typical = known.paths[0] if known and known.paths else ""
        output.write(f"{one.number + 1:>3}  {one.size:>7,}  {one.label or '':<16}  {typical}")
    output.note("cluster, pictures, what half of them are called, the most typical one; the page at /map shows it")
    if output_path is not None:
        output.note(f"written: {output_path}")


def _make_map_json(
    searcher: Searcher, view: MapView, map_clusters: list[MapCluster], output_path: Path | None
) -> dict[str, Any]:
    from simile.explore.map.view import compute_error_ranks

    errors = compute_error_ranks(searcher, view)
    columns = (view.ids, view.points.round(5), view.clusters, view.density, errors)
    points = [
        {
            "image_id": image_id,
            "x": place[0],
            "y": place[1],
            "cluster": None if cluster < 0 else cluster + 1,
            "density": _round_or_none(density),
            "error": _round_or_none(error),
        }
        for image_id, place, cluster, density, error in zip(*(one.tolist() for one in columns), strict=True)
    ]
    said = {"layout": view.map.settings.layout, "encoder": view.map.encoder, "images": len(points)}
    made = [{**asdict(one), "number": one.number + 1} for one in map_clusters]
    return {**said, "clusters": made, "points": points, "output": None if output_path is None else str(output_path)}


def _round_or_none(value: float) -> float | None:
    """Four digits of it; None for NaN, which JSON does not have."""
    return round(value, 4) if value == value else None  # noqa: PLR0124
