"""`simile index` and `simile embed`: compute embeddings of many images."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option
from typer.core import TyperCommand

from simile.cli import options, output
from simile.cli.progress import RESUME_HINT, ProgressReporter
from simile.core.errors import BadUsage

if TYPE_CHECKING:
    from simile.core.records import IndexSummary
    from simile.core.settings import Settings
    from simile.images.sources.paths import PathPatterns
    from simile.indexer.pipeline.job import IndexRequest
    from simile.search.searcher import Searcher

RAY_ADDRESS = re.compile(r"auto|[\w.\-]+:\d+|\[[\da-fA-F:]+\]:\d+")  # HOST:PORT

METADATA_HINT = "The metadata of the files read so far are stored. A new run reads all files again."


class IndexCommand(TyperCommand):
    """The command `index`, with the optional value of --ray, which typer does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments: --ray takes the next one if that looks like an address."""
        for position, arg in enumerate(args):
            if arg == "--":
                break
            if arg == "--ray" and not RAY_ADDRESS.fullmatch("".join(args[position + 1 : position + 2])):
                args = [*args[:position], "--ray=auto", *args[position + 1 :]]
        return super().parse_args(ctx, args)


def index(
    common: options.EncoderOptions,
    photos: options.PhotosArgument,
    encoder: options.EncoderOption = None,
    prune: Annotated[bool, Option("--prune", help="Remove files that no longer exist from the index.")] = False,
    reread: Annotated[
        bool,
        Option("--reread", help="Read every file again, even if its size and time are unchanged; finds damaged files."),
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show what would be done; store nothing.")] = False,
    list_ignored: Annotated[
        bool, Option("--list-ignored", help="Name every file of another kind, such as pdf or mov, that is skipped.")
    ] = False,
    strict: Annotated[bool, Option("--strict", help="Exit with 1 if any file was skipped.")] = False,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
    wait: options.WaitOption = 0.0,
    index_kind: Annotated[
        str | None, Option("--index", help="auto, exact or ivf. [env: SIMILE_INDEX; default: auto]")
    ] = None,
    train: Annotated[
        bool, Option("--train", help="Train an encoder on PHOTOS first; embed all images of the home with it.")
    ] = False,
    labels: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="COCO's annotations (.json) or YOLO's data.yaml: classes, numbers of objects and captions become "
            "metadata (docs/datasets.md).",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Embed on a Ray cluster, HOST:PORT (docs/scaling.md). Without an address: that of RAY_ADDRESS or of "
            "this machine, else one that is started here.",
        ),
    ] = None,
    metadata: Annotated[
        bool,
        Option(
            "--metadata",
            help="Only read the metadata of indexed photos and their sidecars again; nothing is decoded or embedded.",
        ),
    ] = False,
    watch: Annotated[
        bool, Option("--watch", help="Index the folders PHOTOS again after each change of their files, until Ctrl-C.")
    ] = False,
    report_copies: Annotated[
        bool, Option("--report-copies", help="With --watch: name each new image that is a copy of an earlier one.")
    ] = False,
    minutes: Annotated[
        float | None,
        Option(
            min=0.01,
            max=options.MAX_DURATION,
            help="Maximum training time; trains first if the home has no encoder yet. [default with --train: 3 from "
            "the encoder that comes with simile, else 10]",
        ),
    ] = None,
) -> None:
    """Make PHOTOS searchable; a second run only processes changes.

    The first run in a home uses the encoder that comes with simile, or with --train one that it trains.
    With another --encoder, all images of the home are embedded again. The old embeddings are used until that is done.
    """
    if metadata:
        others = {"--train": train, "--minutes": minutes, "--encoder": encoder, "--index": index_kind, "--ray": ray}
        others |= {"--prune": prune, "--reread": reread, "--dry-run": dry_run, "--list-ignored": list_ignored}
        others |= {"--labels": labels is not None, "--watch": watch}
        if excluded := next((name for name, value in others.items() if value), None):
            raise BadUsage(f"--metadata only reads metadata, so it excludes {excluded}. Choose one.")
        _update_metadata(common, photos, options.make_patterns(include, exclude), wait=wait, strict=strict)
        return
    from simile.indexer.pipeline.job import IndexRequest
    from simile.indexer.pipeline.job import index as run_index

    if train and (encoder is not None or dry_run):
        raise BadUsage(f"--train excludes {'--dry-run' if dry_run else '--encoder'}. Choose one.")
    if reread and dry_run:
        raise BadUsage("--dry-run opens no file, so it excludes --reread. Choose one.")
    if report_copies and not watch:
        raise BadUsage("--report-copies goes with --watch. Without it, `simile dedup` finds all copies.")
    if watch and (dry_run or labels is not None):
        raise BadUsage(f"--watch excludes {'--dry-run' if dry_run else '--labels'}. Choose one.")
    settings = common.load_settings(index=index_kind)
    with ProgressReporter(RESUME_HINT, json=common.json) as reporter:
        request = IndexRequest(
            encoder=encoder,
            prune=prune,
            reread=reread,
            dry_run=dry_run,
            list_ignored=list_ignored,
            train=train,
            minutes=minutes,
            on_training=reporter.on_training,
            on_progress=reporter.on_indexing,
            patterns=options.make_patterns(include, exclude),
            wait=wait,
            labels=labels,
            ray=ray,
        )
        if watch:
            _watch(common, settings, photos, request, report_copies=report_copies)
            return
        summary = run_index(settings, photos, request)
    body = {**asdict(summary), "images_per_second": summary.images_per_second}
    common.show(body, output.format_summary(summary, dry_run=dry_run))
    if strict and summary.failures:
        raise typer.Exit(1)


def _watch(
    common: options.EncoderOptions,
    settings: Settings,
    photos: list[Path],
    request: IndexRequest,
    *,
    report_copies: bool,
) -> None:
    """Index until Ctrl-C, and print the counts of each run that changes something."""
    from simile.dedup.detection.new_copies import find_new_copies, get_last_id
    from simile.indexer.watch import index_and_watch

    with ExitStack() as stack:
        searcher: Searcher | None = None
        last_id = 0

        def show(summary: IndexSummary) -> None:
            nonlocal searcher, last_id
            copies: list[str] = []
            if searcher is not None and summary.new:
                copies = [output.format_copy(*pair) for pair in find_new_copies(searcher, last_id)]
            elif searcher is None and report_copies:  # the first run: its images are compared by `simile dedup`
                searcher = stack.enter_context(common.open_searcher())
            last_id = 0 if searcher is None else get_last_id(searcher)
            counts = output.format_summary(summary, dry_run=False)[0]
            body = asdict(summary) | ({"copies": copies} if report_copies else {})
            common.show(body, [counts, *copies], *map(output.format_failure, summary.failures))
            sys.stdout.flush()

        index_and_watch(settings, photos, request, show)


def _update_metadata(
    common: options.EncoderOptions, photos: list[Path], patterns: PathPatterns, *, wait: float, strict: bool
) -> None:
    """Read the metadata of indexed photos again."""
    from simile.indexer.pipeline.metadata import update_photo_metadata

    with ProgressReporter(METADATA_HINT, json=common.json) as reporter:
        summary = update_photo_metadata(common.load_settings(), photos, patterns, reporter.on_stage, wait=wait)
    body = {**asdict(summary), "files_per_second": summary.files_per_second}
    common.show(body, output.format_metadata_summary(summary))
    if strict and summary.failures:
        raise typer.Exit(1)


app = options.CommandGroup()
app.command("index", cls=IndexCommand)(index)


def embed(
    common: options.EncoderOptions,
    photos: options.PhotosArgument,
    output_path: Annotated[Path, options.output_option("The .npz file to write.")],
    encoder: options.EncoderOption = None,
    include: options.IncludeOption = None,
    exclude: options.ExcludeOption = None,
) -> None:
    """Write embeddings of PHOTOS to an .npz file (paths, mu, sigma, vector); the home is not changed."""
    from simile.indexer.embed import embed as run_embed

    options.check_output(output_path, ())
    settings = common.load_settings()
    patterns = options.make_patterns(include, exclude)
    embeddings = run_embed(settings, photos, load_chosen_encoder(settings, encoder), patterns)
    embeddings.save(output_path)
    for failure in embeddings.failures:
        output.note(output.format_failure(failure))
    failures = list(map(vars, embeddings.failures))
    body = {"output": output_path, "pictures": len(embeddings.paths), "failures": failures}
    common.show(body, f"{output_path}: {len(embeddings.paths):,} vectors of {embeddings.mu.shape[1]} numbers")


def load_chosen_encoder(settings: Settings, reference: str | None) -> Any:
    """Load the encoder with this folder or fingerprint; None: the active one. Raises NoSuchEncoder, NothingIndexed."""
    from simile.search.encoder_registry import find_encoder
    from simile.search.searcher import Searcher
    from simile.store.home import Home

    if reference is not None:
        return find_encoder(Home.from_settings(settings), reference, settings.device, settings.runtime)
    with Searcher(settings) as searcher:
        return searcher.get_encoder()
