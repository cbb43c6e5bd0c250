"""What `simile dedup` does to files: apply a plan, undo it, list the journals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import ProgressReporter
from simile.core.errors import BadUsage
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.dedup.cleanup.apply import ApplyResult
    from simile.dedup.cleanup.journal import CleanupAction

WaitOption = Annotated[
    float, typer.Option(min=0, max=options.MAX_DURATION, help="Seconds to wait for a home that another process holds.")
]
EXCLUSIVE_ACTIONS_ERROR = "--move-to, --hardlink, --symlink and --trash exclude each other. Choose one."
ACTION_PAST_TENSE = {"move": "moved", "hardlink": "replaced by a hard link", "symlink": "replaced by a symbolic link",
        "trash": "put into the trash", None: "removed"}  # fmt: skip


def apply(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="What `simile dedup --plan`, the page or the report wrote.")],
    move_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Move the files there, in folders as they were.")
    ] = None,
    hardlink: Annotated[
        bool, typer.Option("--hardlink", help="Make each a second name of the kept file: for copies of the same bytes.")
    ] = False,
    symlink: Annotated[
        bool, typer.Option("--symlink", help="Make each a symbolic link to the kept file: likewise.")
    ] = False,
    trash: Annotated[bool, typer.Option("--trash", help="Put the files into the desktop's trash.")] = False,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder whose files may be touched though they are not indexed; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and touch nothing.")] = False,
    wait: WaitOption = 0.0,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Do what a PLAN says, one of four ways; without one of them, only say what would happen.

    Each file is read again before it is touched, and goes only if its copy stays. `simile dedup undo` takes all back.
    """
    from simile.dedup.cleanup.apply import ApplyRequest, apply_plan

    action = _get_action(move_to, hardlink=hardlink, symlink=symlink, trash=trash)
    request = ApplyRequest(
        action=action, target_folder=move_to, extra_roots=tuple(root or ()), dry_run=dry_run, wait=wait
    )
    with ProgressReporter("What was done stands; `simile dedup undo` takes it back.", json=json) as reporter:
        done = apply_plan(load_settings(home=home or context.obj), plan, request, reporter.on_stage)
    if json:
        output.write_json({**asdict(done), "action": action})
    else:
        output.write(_format_applied(done, action))
    if done.set_aside:
        raise typer.Exit(1)


def undo(
    context: typer.Context,
    journal: Annotated[str | None, typer.Argument(help="Its name or number. [default: the newest]")] = None,
    wait: WaitOption = 0.0,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Take back what `apply` did: every file is where it was, with its bytes, mode and time. Overwrites nothing."""
    from simile.dedup.cleanup.undo import undo_journal as take_back

    with ProgressReporter("What is back is back: run the same command again to go on.", json=json) as reporter:
        done = take_back(load_settings(home=home or context.obj), journal, wait, reporter.on_stage)
    if json:
        output.write_json(asdict(done))
    else:
        lines = [f"{done.restored:,} files are back where they were (journal {done.journal})"]
        output.write("\n".join(lines + [f"set aside: {left.path}: {left.reason}" for left in done.set_aside]))
    if done.set_aside:
        raise typer.Exit(1)


def show_journals(
    context: typer.Context,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """List what plans did, the newest first."""
    from simile.dedup.cleanup.journal import list_journals
    from simile.store.home import Home

    settings = load_settings(home=home or context.obj)
    found = list_journals(Home(settings.home, settings.database_url))
    if json:
        output.write_json({"journals": found})
    else:
        output.write("\n".join(map(_format_journal, found)) or "no plan was applied in this home")


def _get_action(move_to: Path | None, *, hardlink: bool, symlink: bool, trash: bool) -> CleanupAction | None:
    given: list[CleanupAction] = []
    given += ["move"] if move_to is not None else []
    given += ["hardlink"] if hardlink else []
    given += ["symlink"] if symlink else []
    given += ["trash"] if trash else []
    if len(given) > 1:
        raise BadUsage(EXCLUSIVE_ACTIONS_ERROR)
    return given[0] if given else None


def _format_applied(result: ApplyResult, action: CleanupAction | None) -> str:
    size = output.format_size(result.bytes_freed)
    if result.dry_run:
        lines = [f"{result.applied:,} files would be {ACTION_PAST_TENSE[action]}, {size}; nothing was touched"]
        if action is None:
            lines.append("choose how with --move-to DIR, --hardlink, --symlink or --trash")
    else:
        lines = [f"{result.applied:,} files {ACTION_PAST_TENSE[action]}, {size}"]
        lines += [f"take it back with `simile dedup undo` (journal {result.journal})"] if result.journal else []
        if result.applied and action in ("move", "trash"):
            lines.append("the index still lists them: run `simile index … --prune` on their folders")
    lines += [f"{result.already:,} lines of the plan were done before"] if result.already else []
    return "\n".join(lines + [f"set aside: {left.path}: {left.reason}" for left in result.set_aside])


def _format_journal(journal: dict[str, Any]) -> str:
    parts = [f"{journal['done']:,} {ACTION_PAST_TENSE.get(journal['action'], 'changed')}"] if journal["done"] else []
    parts += [f"{journal[state]:,} {state}" for state in ("undone", "unfinished", "unclear") if journal[state]]
    return f"{journal['journal']}  {', '.join(parts) or 'nothing done'}  {journal['plan'] or ''}".rstrip()
