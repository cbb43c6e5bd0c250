"""`simile select`: a small subset of the collection."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from simile.cli import options, output


def select(
    filters: options.FilterOptions,
    common: options.CommonOptions,
    count: Annotated[
        int | None,
        Option("-n", "--count", min=1, max=100_000, help="Number of images. [default: all with --how unique]"),
    ] = None,
    how: Annotated[
        Literal["diverse", "representative", "unique"],
        Option(
            help="diverse: far from each other; representative: the middles of clusters; unique: one of each group of "
            "known copies (`simile dedup`)."
        ),
    ] = "diverse",
    output_path: Annotated[
        Path | None, options.output_option("Write a manifest (.csv or .parquet) with paths, ids and metadata.")
    ] = None,
    copy_to: Annotated[Path | None, Option(help="Copy the files to this new folder.", show_default=False)] = None,
    seed: Annotated[int, Option(min=0, max=options.MAX_SEED, help="Seed of the random choices.")] = 0,
) -> None:
    """Select a subset of the collection: diverse, representative, or one image of each group of copies."""
    from simile.explore.subset.exports import SUBSET_SUFFIXES, copy_subset, write_subset
    from simile.explore.subset.subset import select_subset
    from simile.store.filter_check import resolve_filter

    options.check_output(output_path, SUBSET_SUFFIXES)
    with common.open_searcher() as searcher:
        filter_ = resolve_filter(searcher.catalogue, filters.to_filter())
        images = select_subset(searcher, count, how, filter_, seed)
        if output_path is not None:
            write_subset(searcher, images, output_path)
        failures = {} if copy_to is None else copy_subset(searcher, images, copy_to)
    notes = output.format_written(output_path)
    if copy_to is not None:
        notes.append(f"{copy_to}: {len(images) - len(failures):,} files")
    notes += [f"skipped: {reason}" for reason in failures.values()]
    body = {
        "images": [asdict(image) for image in images],
        "output": output_path,
        "copied_to": copy_to,
        "failures": [{"image_id": image_id, "reason": reason} for image_id, reason in failures.items()],
    }
    common.show(body, [image.path for image in images], *notes)
