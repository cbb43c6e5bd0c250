"""Subcommands of `simile dedup` that change files: apply a plan, undo it, list the journals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from simile.cli import options, output
from simile.cli.progress import RESUME_HINT, ProgressReporter
from simile.core.errors import BadUsage

if TYPE_CHECKING:
    from simile.dedup.cleanup.apply import ApplyResult
    from simile.dedup.cleanup.journal import CleanupAction

ACTION_PAST_TENSE = {
    "move": "moved",
    "hardlink": "replaced by a hard link",
    "symlink": "replaced by a symbolic link",
    "trash": "moved to the trash",
    None: "removed",
}


def apply(
    common: options.CommonOptions,
    plan: Annotated[Path, Argument(help="A plan from `simile dedup --plan`, the web page or the report.")],
    move_to: Annotated[Path | None, Option(metavar="DIR", help="Move the files there and keep their folders.")] = None,
    hardlink: Annotated[bool, Option("--hardlink", help="Replace equal files by hard links to the kept file.")] = False,
    symlink: Annotated[
        bool, Option("--symlink", help="Replace equal files by symbolic links to the kept file.")
    ] = False,
    trash: Annotated[bool, Option("--trash", help="Move the files to the trash of the desktop.")] = False,
    root: Annotated[
        list[Path] | None,
        Option(help="Folder whose files may be changed though they are not indexed; can be repeated."),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Check everything; change nothing.")] = False,
    wait: options.WaitOption = 0.0,
) -> None:
    """Apply a PLAN in one of four ways; without one of them, only show what would happen.

    Each file is read again and is removed only if its copy stays. `simile dedup undo` restores everything.
    """
    from simile.dedup.cleanup.apply import ApplyRequest, apply_plan

    is_given: dict[CleanupAction, bool] = {
        "move": move_to is not None,
        "hardlink": hardlink,
        "symlink": symlink,
        "trash": trash,
    }
    actions = [action for action, given in is_given.items() if given]
    if len(actions) > 1:
        raise BadUsage("--move-to, --hardlink, --symlink and --trash exclude each other. Choose one.")
    action = actions[0] if actions else None
    request = ApplyRequest(
        action=action, target_folder=move_to, extra_roots=tuple(root or ()), dry_run=dry_run, wait=wait
    )
    hint = "Files that were changed stay changed; `simile dedup undo` restores them."
    with ProgressReporter(hint, json=common.json) as reporter:
        result = apply_plan(common.load_settings(), plan, request, reporter.on_stage)
    common.show({**asdict(result), "action": action}, _format_applied(result, action))
    if result.set_aside:
        raise typer.Exit(1)


def undo(
    common: options.CommonOptions,
    journal: Annotated[str | None, Argument(help="Name or number of the journal. [default: the latest]")] = None,
    wait: options.WaitOption = 0.0,
) -> None:
    """Undo `apply`: restore each file with its bytes, mode and time. No file is overwritten."""
    from simile.dedup.cleanup.undo import undo_journal

    with ProgressReporter(RESUME_HINT, json=common.json) as reporter:
        result = undo_journal(common.load_settings(), journal, wait, reporter.on_stage)
    lines = [f"{result.restored:,} files restored (journal {result.journal})"]
    common.show(asdict(result), [*lines, *map(output.format_failure, result.set_aside)])
    if result.set_aside:
        raise typer.Exit(1)


def show_journals(common: options.CommonOptions) -> None:
    """List the applied plans, the latest first."""
    from simile.dedup.cleanup.journal import list_journals

    journals = list_journals(common.get_home())
    lines = list(map(_format_journal, journals)) or ["no plan was applied in this home"]
    common.show({"journals": journals}, lines)


def _format_applied(result: ApplyResult, action: CleanupAction | None) -> list[str]:
    size = output.format_size(result.bytes_freed)
    if result.dry_run:
        lines = [f"{result.applied:,} files would be {ACTION_PAST_TENSE[action]}, {size}; nothing was changed"]
        if action is None:
            lines.append("choose an action: --move-to DIR, --hardlink, --symlink or --trash")
    else:
        lines = [f"{result.applied:,} files {ACTION_PAST_TENSE[action]}, {size}"]
        lines += [f"to undo: `simile dedup undo` (journal {result.journal})"] if result.journal else []
        if result.applied and action in ("move", "trash"):
            lines.append(
                "the index still lists them: run `simile index FOLDER --prune` with the folder that was indexed"
            )
    lines += [f"with them: {result.companions:,} sidecars and partners"] if result.companions else []
    if result.sidecars_written:
        lines.append(f"ratings and keywords added to the sidecars of kept files: {result.sidecars_written:,}")
    lines += [f"{result.already:,} files of the plan were processed before"] if result.already else []
    return lines + list(map(output.format_failure, result.set_aside))


def _format_journal(journal: dict[str, Any]) -> str:
    parts = [f"{journal['done']:,} {ACTION_PAST_TENSE.get(journal['action'], 'changed')}"] if journal["done"] else []
    parts += [f"{journal[state]:,} {state}" for state in ("undone", "unfinished", "unclear") if journal[state]]
    return f"{journal['journal']}  {', '.join(parts) or 'nothing done'}  {journal['plan'] or ''}".rstrip()
