"""What `simile dedup` does to files: apply a plan, undo it, list the journals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.cli.progress import Reporter
from simile.core.errors import BadUsage
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from simile.dedup.cleanup.apply import Applied
    from simile.dedup.cleanup.journal import Action

Wait = Annotated[
    float, typer.Option(min=0, max=options.LONGEST, help="Seconds to wait for a home that another process holds.")
]
ONE_ACTION = "--move-to, --hardlink, --symlink and --trash exclude each other. Choose one."
PAST = {"move": "moved", "hardlink": "replaced by a hard link", "symlink": "replaced by a symbolic link",
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
    wait: Wait = 0.0,
    home: options.Home = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Do what a PLAN says, one of four ways; without one of them, only say what would happen.

    Each file is read again before it is touched, and goes only if its copy stays. `simile dedup undo` takes all back.
    """
    from simile.dedup.cleanup.apply import ApplyRequest, apply_plan

    action = _action(move_to, hardlink=hardlink, symlink=symlink, trash=trash)
    request = ApplyRequest(action, move_to, tuple(root or ()), dry_run, wait)
    with Reporter("What was done stands; `simile dedup undo` takes it back.", json=json) as reporter:
        done = apply_plan(load_settings(home=home or context.obj), plan, request, reporter.measured)
    if json:
        output.write_json({**asdict(done), "action": action})
    else:
        output.write(_applied(done, action))
    if done.set_aside:
        raise typer.Exit(1)


def undo(
    context: typer.Context,
    journal: Annotated[str | None, typer.Argument(help="Its name or number. [default: the newest]")] = None,
    wait: Wait = 0.0,
    home: options.Home = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Take back what `apply` did: every file is where it was, with its bytes, mode and time. Overwrites nothing."""
    from simile.dedup.cleanup.undo import undo as take_back

    with Reporter("What is back is back: run the same command again to go on.", json=json) as reporter:
        done = take_back(load_settings(home=home or context.obj), journal, wait, reporter.measured)
    if json:
        output.write_json(asdict(done))
    else:
        lines = [f"{done.restored:,} files are back where they were (journal {done.journal})"]
        output.write("\n".join(lines + [f"set aside: {left.path}: {left.reason}" for left in done.set_aside]))
    if done.set_aside:
        raise typer.Exit(1)


def journals(
    context: typer.Context, home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False
) -> None:
    """List what plans did, the newest first."""
    from simile.dedup.cleanup.journal import list_journals
    from simile.store.home import Home

    settings = load_settings(home=home or context.obj)
    found = list_journals(Home(settings.home, settings.database_url))
    if json:
        output.write_json({"journals": found})
    else:
        output.write("\n".join(map(_line, found)) or "no plan was applied in this home")


def _action(move_to: Path | None, *, hardlink: bool, symlink: bool, trash: bool) -> Action | None:
    given: list[Action] = []
    given += ["move"] if move_to is not None else []
    given += ["hardlink"] if hardlink else []
    given += ["symlink"] if symlink else []
    given += ["trash"] if trash else []
    if len(given) > 1:
        raise BadUsage(ONE_ACTION)
    return given[0] if given else None


def _applied(done: Applied, action: Action | None) -> str:
    size = output.size(done.bytes_freed)
    if done.dry_run:
        lines = [f"{done.applied:,} files would be {PAST[action]}, {size}; nothing was touched"]
        if action is None:
            lines.append("choose how with --move-to DIR, --hardlink, --symlink or --trash")
    else:
        lines = [f"{done.applied:,} files {PAST[action]}, {size}"]
        lines += [f"take it back with `simile dedup undo` (journal {done.journal})"] if done.journal else []
        if done.applied and action in ("move", "trash"):
            lines.append("the index still lists them: run `simile index … --prune` on their folders")
    lines += [f"{done.already:,} lines of the plan were done before"] if done.already else []
    return "\n".join(lines + [f"set aside: {left.path}: {left.reason}" for left in done.set_aside])


def _line(journal: dict[str, Any]) -> str:
    parts = [f"{journal['done']:,} {PAST.get(journal['action'], 'changed')}"] if journal["done"] else []
    parts += [f"{journal[state]:,} {state}" for state in ("undone", "unfinished", "unclear") if journal[state]]
    return f"{journal['journal']}  {', '.join(parts) or 'nothing done'}  {journal['plan'] or ''}".rstrip()
