"""`simile dedup`: find copies of images and plan what to keep. The subcommands that change files are in apply.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from simile.cli import options
from simile.cli.dedup import apply, output
from simile.cli.progress import RESUME_HINT, ProgressReporter
from simile.core.errors import BadUsage

if TYPE_CHECKING:
    from simile.dedup.reporting.results import DedupResultOptions
    from simile.store.home import Home

app = options.CommandGroup(help="Find copies of images and plan what to keep; apply a plan or undo it.")
app.command("apply")(apply.apply)
app.command("undo")(apply.undo)
app.command("journals")(apply.show_journals)

DATASETS_PANEL = "Datasets"
LEAK_EXIT_CODE = 3  # 1 is an error, 2 options that do not fit
# Parameters that are valid before a subcommand, and together with --against.
SUBCOMMAND_PARAMETERS = {"home", "verbose"}
AGAINST_PARAMETERS = SUBCOMMAND_PARAMETERS | {"against", "output_paths", "plan", "json", "device", "seed", "wait"}


@app.callback(invoke_without_command=True)
def dedup(
    context: typer.Context,
    filters: options.FilterOptions,
    common: options.EncoderOptions,
    tier: Annotated[
        list[str] | None,
        Option(help="bytes, pixels, near, series or similar; comma-separated or repeated. [default: all]"),
    ] = None,
    scope: Annotated[
        Literal["across", "within"] | None,
        Option(help="Only copies in different folders (across), or only copies in the same folder (within)."),
    ] = None,
    precision: Annotated[
        float | None,
        Option(
            min=0.5, max=1.0, help="Precision of near copies, measured on copies made of your images. [default: 0.99]"
        ),
    ] = None,
    threshold: Annotated[
        float | None, Option(min=0, help="Largest distance of near copies, instead of --precision.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        Option(
            help="Rules for the file to keep, in order: largest, least-compressed, oldest, under:FOLDER, labelled. "
            "[default: largest, least-compressed, oldest]"
        ),
    ] = None,
    series: Annotated[
        Literal["keep-best"] | None,
        Option(help="Let the plan keep only the best shot of each series. [default: keep all]"),
    ] = None,
    series_seconds: Annotated[
        float | None,
        Option(min=0, help="Longest time between a shot of a series and the one before. [default: 10]"),
    ] = None,
    last: Annotated[
        bool, Option("--last", help="Show the results of the last run, with the decisions made since.")
    ] = False,
    between: Annotated[
        tuple[str, str] | None,
        Option(
            help="Two splits, such as: train test. List the copies that are in both. A split is a folder name, a path "
            "with a slash, or a value of the manifest's column `split`; several with commas: train,val test.",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    fail_on: Annotated[
        Literal["leak"] | None,
        Option(
            help=f"Exit with {LEAK_EXIT_CODE} if --between finds a leak; for CI.",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        Option(
            help="Write the leaks of --between as JUnit .xml, with the measured recall.",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        Option(
            help="folders, or a column of the manifest: list copies with conflicting labels and count classes.",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        Option(
            help="A folder that is not indexed, or another home: find its images in this home.",
            rich_help_panel=DATASETS_PANEL,
        ),
    ] = None,
    output_paths: Annotated[
        list[Path] | None,
        Option(
            "--output",
            "-o",
            help="Write groups as .json, pairs as .csv or .parquet, or a report as .html; can be repeated.",
        ),
    ] = None,
    plan: Annotated[
        Path | None, Option(help="Write a plan of the files to remove (.json), for `simile dedup apply`.")
    ] = None,
    seed: Annotated[int, Option(min=0, max=options.MAX_BIGINT, help="Random seed (artificial copies).")] = 0,
    wait: options.WaitOption = 0.0,
) -> None:
    """Find copies of images and plan what to keep. Only `apply` changes files.

    There are four tiers of copies and similar images: equal bytes, equal pixels, near copies (confirmed), and similar
    images that are not copies. A fifth tier are series: shots that were taken seconds apart and look alike.
    """
    given = _get_given_options(context)
    if context.invoked_subcommand is not None:
        _check_options_before_subcommand(given, context.invoked_subcommand)
    if options.pass_home_to_subcommand(context, common.home):
        return
    from simile.dedup.grouping.groups import GROUP_TIERS
    from simile.dedup.grouping.keep_rules import DEFAULT_KEEP_RULES, parse_keep_rules
    from simile.dedup.reporting.results import DedupResultOptions, collect_results, count_tiers, parse_tiers

    result_options = DedupResultOptions(
        rules=parse_keep_rules(keep) if keep else None,
        tiers=parse_tiers(tier or ()) if tier or scope is None else GROUP_TIERS,
        scope=scope,
        threshold=threshold,
        filter=filters.to_filter(),
        removes_series=series == "keep-best",
        split_names=None if between is None else [name for text in between for name in text.split(",")],
        label_source=labels,
    )
    paths = output_paths or []
    _check_options(result_options, given)
    _check_output_files(paths, plan, (".json", ".csv") if against is not None else None, junit)
    reporter = ProgressReporter(RESUME_HINT, json=common.json)
    if against is not None:
        output.compare_against(common, against, paths, plan, reporter)
        return
    with reporter:
        if not last and set(result_options.tiers) != {"bytes"}:  # equal bytes are known without a run
            from simile.dedup.detection.job import DedupRequest, find_duplicates
            from simile.dedup.detection.series import DEFAULT_SERIES_SECONDS

            _check_names(common.get_home(), result_options)
            request = DedupRequest(
                tiers=tuple(result_options.tiers),
                precision=precision,
                threshold=threshold,
                only=result_options.filter,
                seed=seed,
                wait=wait,
                keep=tuple(result_options.rules or DEFAULT_KEEP_RULES),
                series_seconds=DEFAULT_SERIES_SECONDS if series_seconds is None else series_seconds,
            )
            find_duplicates(common.load_settings(), request, reporter.on_stage)
        with common.open_searcher() as searcher:
            results, cleanup_plan = collect_results(searcher.catalogue, result_options)
            output.write_output_files(paths, results, searcher, reporter.on_stage)
            output.write_junit_file(junit, results, result_options.split_names or ())
            cleanup_plan = output.write_plan_file(plan, cleanup_plan, searcher.catalogue)
            counts = count_tiers(searcher.catalogue, results, cleanup_plan)
            active = searcher.catalogue.get_state().active_encoder
    written = [*paths, junit] if junit is not None else paths
    output.show_results(
        common, results, counts, cleanup_plan, written, plan, threshold=threshold, active_encoder=active
    )
    if fail_on is not None and results.leaks:
        raise typer.Exit(LEAK_EXIT_CODE)


def _get_given_options(context: typer.Context) -> dict[str, str]:
    """Return the options on the command line: parameter name to option name."""
    sources = {parameter: context.get_parameter_source(parameter.name or "") for parameter in context.command.params}
    return {
        parameter.name or "": parameter.opts[0]
        for parameter, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }


def _check_options_before_subcommand(given: dict[str, str], subcommand: str) -> None:
    """Raise BadUsage for an option that has no effect before the subcommand."""
    for parameter, option in given.items():
        if parameter not in SUBCOMMAND_PARAMETERS:
            raise BadUsage(
                f"{option} is not valid before {subcommand}. Leave it out, or write it after {subcommand} if "
                f"`simile dedup {subcommand} --help` lists it."
            )


def _check_options(result_options: DedupResultOptions, given: dict[str, str]) -> None:
    """Raise BadUsage for options that exclude each other, BadSetting for bad splits."""
    from simile.dedup.reporting.dataset_checks import DatasetSplits

    if result_options.threshold is not None and not math.isfinite(result_options.threshold):
        raise BadUsage(f"threshold can't be {result_options.threshold}. Give a distance: a number from 0 on.")
    if "precision" in given and ("threshold" in given or "last" in given):
        raise BadUsage("--precision finds a threshold in a new run, so it excludes --threshold and --last. Choose one.")
    if "last" in given and "series_seconds" in given:
        raise BadUsage("--series-seconds is for a new search of series: leave it out, or leave out --last.")
    if "series" in given and "series" not in result_options.tiers:
        raise BadUsage("--series is about the tier series: add series to --tier, or leave out --tier.")
    if "against" in given and not given.keys() <= AGAINST_PARAMETERS:
        others = ", ".join(option for parameter, option in given.items() if parameter not in AGAINST_PARAMETERS)
        raise BadUsage(f"--against compares with the whole home: leave out {others}.")
    if result_options.split_names is None and (needing := given.keys() & {"fail_on", "junit"}):
        option = given[min(needing)]
        raise BadUsage(f"{option} is about leaks between splits: add --between, such as --between train test.")
    if result_options.scope is not None and (conflicting := given.keys() & {"between", "labels"}):
        raise BadUsage(f"{given[min(conflicting)]} checks the copies in all folders. Leave it out, or --scope.")
    if result_options.scope is not None and "similar" in result_options.tiers:
        raise BadUsage("--scope is about copies, and similar images are none. Leave out --scope, or the tier similar.")
    if result_options.scope is not None and result_options.removes_series:
        raise BadUsage("--scope does not restrict series. Leave it out, or --series keep-best.")
    if result_options.split_names is not None:
        DatasetSplits(result_options.split_names)


def _check_output_files(
    output_paths: list[Path], plan: Path | None, suffixes: tuple[str, ...] | None, junit: Path | None
) -> None:
    """Raise BadUsage if two files are the same, BadSetting if one cannot be written."""
    from simile.dedup.reporting.exports import DEDUP_SUFFIXES, check_dedup_output

    for path in output_paths:
        check_dedup_output(path, suffixes or DEDUP_SUFFIXES)
    if plan is not None:
        check_dedup_output(plan, (".json",))
    if junit is not None:
        check_dedup_output(junit, (".xml",))
    files = [path.absolute() for path in (*output_paths, plan) if path is not None]
    if len(set(files)) < len(files):
        raise BadUsage("--output and --plan name the same file twice. Use a different file for each.")


def _check_names(home: Home, result_options: DedupResultOptions) -> None:
    """Raise BadSetting for names that no file fits before the run; an old home is checked after its upgrade."""
    from simile.dedup.reporting.results import check_names
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database import schema

    if schema.read_revision(home) == schema.HEAD_REVISION:
        with Catalogue(home) as catalogue:
            check_names(catalogue, result_options)
