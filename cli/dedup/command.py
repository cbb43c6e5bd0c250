"""`simile dedup`: copies of pictures, found, explained, and turned into a plan. Acting on one: dedup_acting.py."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simile.cli import filters, options
from simile.cli.dedup import apply, output
from simile.cli.progress import Reporter
from simile.core.errors import BadUsage
from simile.core.filter_parser import make_filter
from simile.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from simile.dedup.reporting.results import Wanted

app = typer.Typer(help="Find copies of pictures and plan what to keep; apply a plan, or undo it.")
app.command("apply")(apply.apply)
app.command("undo")(apply.undo)
app.command("journals")(apply.journals)

DATASETS = "Datasets"
FOR_VERBS = ("home", "verbose")  # options that may stand before apply, undo and journals
STOPPED = "What was confirmed so far is kept: run the same command again to go on."


@app.callback(invoke_without_command=True)
def dedup(
    context: typer.Context,
    home: options.Home = None,
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
            rich_help_panel=DATASETS,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="folders, or a column of the manifest: list copies with conflicting labels, and count classes.",
            rich_help_panel=DATASETS,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="A folder that is not indexed, or another home: which of its pictures are in this home already?",
            rich_help_panel=DATASETS,
        ),
    ] = None,
    where: filters.Where = None,
    under: filters.Under = None,
    format: filters.Format = None,
    min_bytes: filters.MinBytes = None,
    max_bytes: filters.MaxBytes = None,
    min_width: filters.MinWidth = None,
    max_width: filters.MaxWidth = None,
    min_height: filters.MinHeight = None,
    max_height: filters.MaxHeight = None,
    since: filters.Since = None,
    until: filters.Until = None,
    to: Annotated[
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
        float, typer.Option(min=0, max=options.LONGEST, help="Seconds to wait for a home that another process holds.")
    ] = 0.0,
    device: options.Device = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Find copies of pictures and plan what to keep; apply a plan, or undo it. Nothing is touched but by `apply`.

    Four tiers, never mixed: the same bytes, the same pixels, near copies (confirmed), and merely similar pictures.
    """
    if context.invoked_subcommand is not None:
        _refuse_before(context, context.invoked_subcommand)
        context.obj = home  # `simile dedup --home H apply PLAN` means the same as with --home last
        return
    from simile.dedup.grouping.keep_rules import read_rules
    from simile.dedup.reporting.results import Wanted, read_tiers

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
    wanted = Wanted(
        rules=read_rules(keep) if keep else None,
        tiers=read_tiers(tier or ()),
        threshold=threshold,
        only=only,
        between=None if between is None else [name for text in between for name in text.split(",")],
        labels=labels,
    )
    _check(wanted, precision, to or [], plan, last=last, for_pairs=against is None)
    settings = load_settings(home=home, device=device)
    reporter = Reporter(STOPPED, json=json)
    if against is not None:
        _refuse_beside_against(tier, precision, threshold, keep, between, labels, only, last or None)
        output.compare(settings, against, to or [], plan, reporter, json=json)
        return
    with reporter:
        if not last and set(wanted.tiers) != {"bytes"}:  # copies byte for byte are known without looking
            _check_names(settings, wanted)
            _find(settings, wanted, precision, seed, wait, reporter)
        found = output.collect(settings, wanted, to or [], plan, reporter)
    output.show(found, to or [], plan, json=json)


def _refuse_before(context: typer.Context, verb: str) -> None:
    """Raises BadUsage for an option in front of a verb that would not hear of it."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in FOR_VERBS and source is not None and source.name == "COMMANDLINE":
            raise BadUsage(
                f"{option.opts[0]} can't stand before {verb}: it would change nothing there. Leave it out, or write it "
                f"behind {verb} if `simile dedup {verb} --help` lists it."
            )


def _check(
    wanted: Wanted, precision: float | None, to: list[Path], plan: Path | None, *, last: bool, for_pairs: bool
) -> None:
    """Raises BadUsage for what can't be asked for together, and BadSetting, before anything is read."""
    from simile.dedup.reporting.dataset_checks import Splits
    from simile.dedup.reporting.exports import SUFFIXES, check_output

    if wanted.threshold is not None and not math.isfinite(wanted.threshold):
        raise BadUsage(f"threshold can't be {wanted.threshold}. Give a distance: a number from 0 on.")
    if precision is not None and (wanted.threshold is not None or last):
        raise BadUsage(
            "--precision finds the threshold by a new run: it can't go with --threshold or --last. Leave one out."
        )
    if wanted.between is not None:
        Splits(wanted.between)
    for path in to:
        check_output(path, SUFFIXES if for_pairs else (".json", ".csv"))
    if plan is not None:
        check_output(plan, (".json",))
    files = [path.absolute() for path in (*to, plan) if path is not None]
    if len(set(files)) < len(files):
        raise BadUsage("--output and --plan name the same file twice. Give each file a name of its own.")


def _refuse_beside_against(*given: object) -> None:
    if any(one is not None for one in given):
        raise BadUsage(
            "--against looks each file up in the whole home: of the other options only --output, --plan and --json go "
            "with it. Leave the rest out."
        )


def _check_names(settings: Settings, wanted: Wanted) -> None:
    """Raises BadSetting for a split or column that nothing has, before the work; what is upgraded first is so after."""
    from simile.dedup.reporting.results import check_names
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database import schema
    from simile.store.home import Home

    home = Home(settings.home, settings.database_url)
    if schema.revision(home) == schema.HEAD:
        with Catalogue(home) as catalogue:
            check_names(catalogue, wanted)


def _find(
    settings: Settings, wanted: Wanted, precision: float | None, seed: int, wait: float, reporter: Reporter
) -> None:
    from simile.dedup.detection.job import DedupRequest, find_duplicates
    from simile.dedup.grouping.keep_rules import DEFAULT_RULES

    request = DedupRequest(
        tiers=tuple(wanted.tiers),
        precision=precision,
        threshold=wanted.threshold,
        only=wanted.only,
        seed=seed,
        wait=wait,
        keep=tuple(wanted.rules or DEFAULT_RULES),
    )
    find_duplicates(settings, request, reporter.measured)
