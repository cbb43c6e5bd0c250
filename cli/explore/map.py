"""The command that lays out the collection in two dimensions: map."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import Reporter
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.explore.map.view import Cluster, MapView
    from simile.search.searcher import Searcher

AGAIN = "What was measured so far is kept: run the same command again."


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
    to: Annotated[Path | None, typer.Option("--output", "-o", help="The .png to write.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of umap, tsne and kmeans.")] = 0,
    home: options.Home = None,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Lay the collection out in a plane, find what goes together, and keep it for the page at /map."""
    from simile.core.atomic_write import check_output, write_output
    from simile.explore.map.map import Wish, make_map, measure_errors
    from simile.explore.map.render import label_called, map_picture
    from simile.explore.map.view import all_labels, clusters_of, view_of
    from simile.search.searcher import Searcher

    if to is not None:
        check_output(to, (".png",))
    wish = Wish(layout, clusters, count, seed)  # type: ignore[arg-type]  # make_map checks them
    with Searcher(load_settings(home=home, device=device)) as searcher:
        with Reporter(AGAIN, json=json) as reporter:
            view = view_of(searcher, make_map(searcher, wish, reporter.measured))
            if colour == "error" or json:
                measure_errors(searcher, view.ids, reporter.measured)
        labels = all_labels(searcher, view.ids)
        if colour not in ("cluster", "density", "error"):
            label_called(labels, colour)
        found = clusters_of(view, labels[0] if labels else None)
        if to is not None:
            write_output(to, map_picture(searcher, view, labels, colour, style))  # type: ignore[arg-type]
        if json:
            output.write_json(_map_json(searcher, view, found, to))
        else:
            _write_clusters(searcher, found, to)


def _write_clusters(searcher: Searcher, found: list[Cluster], to: Path | None) -> None:
    paths = searcher.catalogue.images([one.typical for one in found if one.typical is not None])
    for one in found:
        known = paths.get(one.typical or 0)
        typical = known.paths[0] if known and known.paths else ""
        output.write(f"{one.number + 1:>3}  {one.size:>7,}  {one.label or '':<16}  {typical}")
    output.note("cluster, pictures, what half of them are called, the most typical one; the page at /map shows it")
    if to is not None:
        output.note(f"written: {to}")


def _map_json(searcher: Searcher, view: MapView, found: list[Cluster], to: Path | None) -> dict[str, Any]:
    from simile.explore.map.view import errors_of

    errors = errors_of(searcher, view)
    columns = (view.ids, view.points.round(5), view.clusters, view.density, errors)
    points = [
        {
            "image_id": image_id,
            "x": place[0],
            "y": place[1],
            "cluster": None if cluster < 0 else cluster + 1,
            "density": _number(density),
            "error": _number(error),
        }
        for image_id, place, cluster, density, error in zip(*(one.tolist() for one in columns), strict=True)
    ]
    said = {"layout": view.map.wish.layout, "encoder": view.map.encoder, "images": len(points)}
    made = [{**asdict(one), "number": one.number + 1} for one in found]
    return {**said, "clusters": made, "points": points, "output": None if to is None else str(to)}


def _number(value: float) -> float | None:
    """Four digits of it; None for NaN, which JSON does not have."""
    return round(value, 4) if value == value else None  # noqa: PLR0124
