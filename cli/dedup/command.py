"""`simile dedup`: copies of pictures, found, explained, and turned into a plan. Acting on one: dedup_acting.py."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simile.cli import filters, options
from simile.cli.dedup import apply, output
from simile.cli.progress import ProgressReporter
from simile.core.errors import BadUsage
from simile.core.filter_parser import make_filter
from simile.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from simile.dedup.reporting.results import DedupResultOptions

app = typer.Typer(help="Find copies of pictures and plan what to keep; apply a plan, or undo it.")
app.command("apply")(apply.apply)
app.command("undo")(apply.undo)
app.command("journals")(apply.show_journals)

DATASETS_PANEL = "Datasets"
SHARED_OPTION_NAMES = ("home", "verbose")  # options that may stand before apply, undo and journals
DEDUP_RESUME_HINT = "What was confirmed so far is kept: run the same command again to go on."


@app.callback(invoke_without_command=True)
def dedup(
    context: typer.Context,
    home: options.HomeOption = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(help="bytes, pixels, near, similar; several with commas or repeated. [default: all]"),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0.5, max=1.0, help="Of near copies, as measured on planted copies of your own pictures. [default: 0.99]"
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, help="The greatest distance of near copies, instead of --precision.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="What to keep, rules in order: largest, least-compressed, oldest, under:FOLDER, labelled. "
            "[default: largest, least-compressed, oldest]"
        ),
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="Show what the last run found, with the decisions made since.")
    ] = False,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Two splits, such as: train test. List the copies that lie in both. A split is a folder's name, a "
            "path with a slash, or a manifest's column `split`; more of them with commas: train,val test.",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="folders, or a column of the manifest: list copies with conflicting labels, and count classes.",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="A folder that is not indexed, or another home: which of its pictures are in this home already?",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    where: filters.WhereOption = None,
    under: filters.UnderOption = None,
    format: filters.FormatOption = None,
    min_bytes: filters.MinBytesOption = None,
    max_bytes: filters.MaxBytesOption = None,
    min_width: filters.MinWidthOption = None,
    max_width: filters.MaxWidthOption = None,
    min_height: filters.MinHeightOption = None,
    max_height: filters.MaxHeightOption = None,
    since: filters.SinceOption = None,
    until: filters.UntilOption = None,
    output_paths: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="Also write groups as .json, pairs as .csv or .parquet, or a report as .html; may be repeated.",
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Write what could go as a plan (.json), for `simile dedup apply`.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the planted copies.")] = 0,
    wait: Annotated[
        float,
        typer.Option(min=0, max=options.MAX_DURATION, help="Seconds to wait for a home that another process holds."),
    ] = 0.0,
    device: options.DeviceOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Find copies of pictures and plan what to keep; apply a plan, or undo it. Nothing is touched but by `apply`.

    Four tiers, never mixed: the same bytes, the same pixels, near copies (confirmed), and merely similar pictures.
    """
    if context.invoked_subcommand is not None:
        _check_options_before_subcommand(context, context.invoked_subcommand)
        context.obj = home  # `simile dedup --home H apply PLAN` means the same as with --home last
        return
    from simile.dedup.grouping.keep_rules import parse_keep_rules
    from simile.dedup.reporting.results import DedupResultOptions, parse_tiers

    only = make_filter(
        where=where or (),
        under=None if under is None else os.path.abspath(under),  # noqa: PTH100  # as walk() names files
        formats=format or (),
        since=since,
        until=until,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        min_width=min_width,
        max_width=max_width,
        min_height=min_height,
        max_height=max_height,
    )
    wanted = DedupResultOptions(
        rules=parse_keep_rules(keep) if keep else None,
        tiers=parse_tiers(tier or ()),
        threshold=threshold,
        filter=only,
        split_names=None if between is None else [name for text in between for name in text.split(",")],
        label_source=labels,
    )
    _check_dedup_options(wanted, precision, output_paths or [], plan, last=last, has_pairs=against is None)
    settings = load_settings(home=home, device=device)
    reporter = ProgressReporter(DEDUP_RESUME_HINT, json=json)
    if against is not None:
        _check_options_beside_against(tier, precision, threshold, keep, between, labels, only, last or None)
        output.compare_against(settings, against, output_paths or [], plan, reporter, json=json)
        return
    with reporter:
        if not last and set(wanted.tiers) != {"bytes"}:  # copies byte for byte are known without looking
            _check_split_names(settings, wanted)
            _run_find_duplicates(settings, wanted, precision, seed, wait, reporter)
        found = output.collect_output(settings, wanted, output_paths or [], plan, reporter)
    output.show_output(found, output_paths or [], plan, json=json)


def _check_options_before_subcommand(context: typer.Context, subcommand: str) -> None:
    """Raises BadUsage for an option in front of a verb that would not hear of it."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in SHARED_OPTION_NAMES and source is not None and source.name == "COMMANDLINE":
            raise BadUsage(
                f"{option.opts[0]} can't stand before {subcommand}: it would change nothing there. Leave it out, or write it "
                f"behind {subcommand} if `simile dedup {subcommand} --help` lists it."
            )


def _check_dedup_options(
    results_spec: DedupResultOptions,
    precision: float | None,
    output_paths: list[Path],
    plan: Path | None,
    *,
    last: bool,
    has_pairs: bool,
) -> None:
    """Raises BadUsage for what can't be asked for together, and BadSetting, before anything is read."""
    from simile.dedup.reporting.dataset_checks import DatasetSplits
    from simile.dedup.reporting.exports import DEDUP_SUFFIXES, check_dedup_output

    if results_spec.threshold is not None and not math.isfinite(results_spec.threshold):
        raise BadUsage(f"threshold can't be {results_spec.threshold}. Give a distance: a number from 0 on.")
    if precision is not None and (results_spec.threshold is not None or last):
        raise BadUsage(
            "--precision finds the threshold by a new run: it can't go with --threshold or --last. Leave one out."
        )
    if results_spec.split_names is not None:
        DatasetSplits(results_spec.split_names)
    for path in output_paths:
        check_dedup_output(path, DEDUP_SUFFIXES if has_pairs else (".json", ".csv"))
    if plan is not None:
        check_dedup_output(plan, (".json",))
    files = [path.absolute() for path in (*output_paths, plan) if path is not None]
    if len(set(files)) < len(files):
        raise BadUsage("--output and --plan name the same file twice. Give each file a name of its own.")


def _check_options_beside_against(*values: object) -> None:
    if any(one is not None for one in values):
        raise BadUsage(
            "--against looks each file up in the whole home: of the other options only --output, --plan and --json go "
            "with it. Leave the rest out."
        )


def _check_split_names(settings: Settings, results_spec: DedupResultOptions) -> None:
    """Raises BadSetting for a split or column that nothing has, before the work; what is upgraded first is so after."""
    from simile.dedup.reporting.results import check_dataset_names
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database import schema
    from simile.store.home import Home

    home = Home(settings.home, settings.database_url)
    if schema.read_revision(home) == schema.HEAD_REVISION:
        with Catalogue(home) as catalogue:
            check_dataset_names(catalogue, results_spec)


def _run_find_duplicates(
    settings: Settings,
    results_spec: DedupResultOptions,
    precision: float | None,
    seed: int,
    wait: float,
    reporter: ProgressReporter,
) -> None:
    from simile.dedup.detection.job import DedupRequest, find_duplicates
    from simile.dedup.grouping.keep_rules import DEFAULT_KEEP_RULES

    request = DedupRequest(
        tiers=tuple(results_spec.tiers),
        precision=precision,
        threshold=results_spec.threshold,
        only=results_spec.filter,
        seed=seed,
        wait=wait,
        keep=tuple(results_spec.rules or DEFAULT_KEEP_RULES),
    )
    find_duplicates(settings, request, reporter.on_stage)
