"""`simile map`: lay out the collection in two dimensions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from simile.cli import options, output
from simile.cli.progress import RESUME_HINT, ProgressReporter
from simile.core.atomic_write import write_output_file

if TYPE_CHECKING:
    from simile.explore.map.view import MapCluster, MapView
    from simile.search.searcher import Searcher


def map_collection(
    common: options.EncoderOptions,
    layout: Annotated[
        str, Option(help="pca: fast. tsne, umap: keep neighbours together, in minutes; umap needs `simile[map]`.")
    ] = "pca",
    clusters: Annotated[
        str,
        Option(
            help="kmeans: each image in one cluster. hdbscan: dense regions of at most 10,000 images; the others join "
            "the nearest of these."
        ),
    ] = "kmeans",
    count: Annotated[
        int | None, Option(min=2, help="kmeans: number of clusters [12]. hdbscan: minimum cluster size [1 %].")
    ] = None,
    colour: Annotated[
        str, Option(help="cluster, density, error, folder, or a metadata name such as class.")
    ] = "cluster",
    style: Annotated[str, Option(help="pictures: thumbnails where there is room. dots: only dots.")] = "pictures",
    output_path: options.PngOption = None,
    seed: Annotated[int, Option(min=0, max=options.MAX_SEED, help="Random seed (umap, tsne, kmeans).")] = 0,
) -> None:
    """Lay out the collection in two dimensions, find clusters and save the map for the page at /map."""
    from simile.explore.map.map import MapSettings, make_map, measure_reconstruction_errors
    from simile.explore.map.render import find_labels, render_map
    from simile.explore.map.view import load_labels, make_clusters, make_map_view

    options.check_output(output_path, (".png",))
    settings = MapSettings(layout, clusters, count, seed)  # type: ignore[arg-type]  # make_map checks them
    with common.open_searcher() as searcher:
        with ProgressReporter(RESUME_HINT, json=common.json) as reporter:
            view = make_map_view(searcher, make_map(searcher, settings, reporter.on_stage))
            if colour == "error" or common.json:
                measure_reconstruction_errors(searcher, view.ids, reporter.on_stage)
        labels = load_labels(searcher, view.ids)
        if colour not in ("cluster", "density", "error"):
            find_labels(labels, colour)  # raises BadSetting for an unknown name
        map_clusters = make_clusters(view, labels[0] if labels else None)
        if output_path is not None:
            write_output_file(output_path, render_map(searcher, view, labels, colour, style))  # type: ignore[arg-type]
        if common.json:
            body = _make_map_json(searcher, view, map_clusters)
            output.write_json({**body, "output": output_path})
            return
        records = searcher.catalogue.images.get_many([cluster.typical or 0 for cluster in map_clusters])
    for cluster in map_clusters:
        record = records.get(cluster.typical or 0)
        path = record.paths[0] if record and record.paths else ""
        output.write(f"{cluster.number + 1:>3}  {cluster.size:>7,}  {cluster.label or '':<16}  {path}")
    legend = "columns: cluster, images, label of at least half of them, most typical image; the page at /map shows it"
    for note in (legend, *output.format_written(output_path)):
        output.note(note)


def _make_map_json(searcher: Searcher, view: MapView, map_clusters: list[MapCluster]) -> dict[str, Any]:
    from simile.explore.map.view import compute_error_ranks

    errors = compute_error_ranks(searcher, view)
    columns = (view.ids, view.points.round(5), view.clusters, view.density, errors)
    points = [
        {
            "image_id": image_id,
            "x": point[0],
            "y": point[1],
            "cluster": None if cluster < 0 else cluster + 1,
            "density": _round_or_none(density),
            "error": _round_or_none(error),
        }
        for image_id, point, cluster, density, error in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return {
        "layout": view.map.settings.layout,
        "encoder": view.map.encoder,
        "images": len(points),
        "clusters": [{**asdict(cluster), "number": cluster.number + 1} for cluster in map_clusters],
        "points": points,
    }


def _round_or_none(value: float) -> float | None:
    """Round to four digits; None for NaN, which JSON does not have."""
    return round(value, 4) if value == value else None  # noqa: PLR0124
