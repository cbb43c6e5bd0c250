"""The table of commands; errors become messages and exit codes here.

Exit codes: 0 success, 1 an error or a problem was found, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any, cast

import typer
from typer import BadParameter, Typer
from typer.core import TyperCommand, TyperGroup

from simile.cli import options, output
from simile.core.errors import BadUsage, SimileError
from simile.core.logs import configure_logging, escape_controls

# ClickException: the base of all errors in the arguments of a command.
CommandLineError = cast(type[BadParameter], BadParameter.__mro__[2])

# Module, function or group, and help of each command. The module is imported when the command runs, so that
# `simile --help` imports none of them. A test compares the help with the docstrings.
COMMANDS = {
    "train": (
        "train:train",
        "Train an encoder on PHOTOS and add it to the home, with a report (curves, reconstructions, samples).",
    ),
    "index": ("index:app", "Make PHOTOS searchable; a second run only processes changes."),
    "search": (
        "search:search",
        "Find the images most similar to IMAGE, or those that fit the words of --text, or both.",
    ),
    "words": (
        "search:list_words",
        "List the words for `simile search --text`, learned from tags, labels, keywords and folder names.",
    ),
    "dedup": ("dedup.command:app", "Find copies of images and plan what to keep; apply a plan or undo it."),
    "reconstruct": ("search:reconstruct", "Write IMAGE and its reconstruction side by side."),
    "embed": (
        "index:embed",
        "Write embeddings of PHOTOS to an .npz file (paths, mu, sigma, vector); the home is not changed.",
    ),
    "evaluate": (
        "evaluate:evaluate",
        "Compare every encoder with raw pixels, PCA and a perceptual hash on PHOTOS, and recommend one.",
    ),
    "morph": (
        "explore.generate:morph",
        "Interpolate between images in the latent space and decode each step.",
    ),
    "generate": ("explore.generate:generate", "Sample latent vectors and decode them to a grid of new images."),
    "traverse": (
        "explore.traverse:traverse",
        "Change one latent dimension at a time, and show the decoded images above the nearest images.",
    ),
    "manifold": ("explore.traverse:show_manifold", "Decode a plane of the latent space to a grid of images."),
    "attribute": (
        "explore.attribute:app",
        "Learn attributes from two sets of images; list, show, apply and remove them.",
    ),
    "compress": (
        "explore.compress:compress",
        "Write PHOTOS as quantised, entropy-coded latent vectors to one file. The compression is lossy.",
    ),
    "decompress": (
        "explore.compress:decompress",
        "Write the images of an archive as PNGs; existing files are not overwritten.",
    ),
    "map": (
        "explore.map:map_collection",
        "Lay out the collection in two dimensions, find clusters and save the map for the page at /map.",
    ),
    "outliers": ("explore.measure:show_outliers", "List the outliers of the collection, each with the reason."),
    "select": (
        "explore.subset:select",
        "Select a subset of the collection: diverse, representative, or one image of each group of copies.",
    ),
    "quality": (
        "explore.quality:show_quality",
        "Count the images with issues of quality, with the worst of each: blurred, dark, flat, of an odd size.",
    ),
    "uncertainty": (
        "explore.measure:show_uncertainty",
        "Measure the uncertainty of the encoder: σ, spread of reconstructions, log p(x), error, stable neighbours.",
    ),
    "continuity": (
        "explore.measure:show_continuity",
        "Measure how smooth the latent space is, along paths between random images of the collection.",
    ),
    "serve": ("serve:serve", "Serve the search page at / and the API at /v1 (documented at /docs)."),
    "mcp": (
        "serve:serve_mcp",
        "Serve an agent over stdin and stdout, by the Model Context Protocol (MCP); its tools only read.",
    ),
    "demo": (
        "serve:run_demo_command",
        "Try simile: write images, index them, search by three of them, serve the search page.",
    ),
    "keys": ("keys:app", "Create, list and revoke keys of the service."),
    "encoders": ("encoders:app", "List the encoders of the home; add, activate, remove or export one."),
    "status": (
        "maintenance:show_status",
        "Show the contents of the home: images, encoder, index, the latest runs and the files they skipped.",
    ),
    "verify": (
        "maintenance:verify",
        "Check rows, vectors, segments, encoders and files for consistency; exit with 1 if there is a problem.",
    ),
    "rebuild": (
        "maintenance:rebuild",
        "Rebuild the index from the catalogue; needs neither images nor an encoder.",
    ),
    "compact": (
        "maintenance:compact",
        "Merge the changes since the last segment into a new one and delete unused files and objects.",
    ),
    "export": (
        "maintenance:export",
        "Write id, paths, hash, metadata, μ and log-variance of every image as Parquet, npz or CSV, or as a dataset.",
    ),
    "backup": (
        "maintenance:backup",
        "Write a backup of the whole home to one tar FILE; the home can be used meanwhile.",
    ),
    "restore": (
        "maintenance:restore",
        "Restore a home from a backup FILE; everything is checked before the home is created.",
    ),
}


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import the module of a command and return the command or the group of subcommands."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    loaded = getattr(import_module(f"simile.cli.{module}"), attribute)
    if not isinstance(loaded, Typer):
        group = options.CommandGroup()
        group.command(name)(loaded)
        loaded = group
    command = cast(TyperCommand | TyperGroup, typer.main.get_command(loaded))
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """The group of all commands: names and help for the list, and the module of the command that runs."""

    def __init__(self, **arguments: Any) -> None:
        listed: dict[str, Any] = {
            name: TyperCommand(name, help=text, rich_markup_mode="markdown") for name, (_, text) in COMMANDS.items()
        }
        super().__init__(**arguments | {"commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the name of the command, the command and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


app = Typer(
    name="simile",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _describe() -> None:
    """Find similar images with a variational autoencoder trained on your own images; show reconstructions."""


def _open_missing_streams() -> None:
    """Open what a shell closed with `>&-`, on the null device: Python has None there.

    The next file that is opened would get the number of the closed stream, and with it what libraries print.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)
        try:
            os.fstat(descriptor)
        except OSError:  # still closed
            os.dup2(null, descriptor)
        setattr(sys, name, open(null, "r" if name == "stdin" else "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115, PTH123


def run() -> None:
    """Run the `simile` command: its entry point."""
    _open_missing_streams()
    # Before torch is imported: threads that wait in a loop make a training many times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    verbose = "--verbose" in sys.argv
    configure_logging(verbose)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode shows escapes
    try:
        exit_code = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(exit_code)
    except CommandLineError as error:
        from typer.rich_utils import rich_format_error

        message = escape_controls(error.format_message())
        vars(error)["format_message"] = lambda: message
        rich_format_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `simile … | head`
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if verbose:
            logging.getLogger("simile").exception("traceback:")
        next_step = ". This is a bug: run the command again with --verbose and report the output."
        if isinstance(error, OSError):
            next_step = ". Check permissions and disk space, and try again."
        output.note(f"{type(error).__name__}: {error}{'' if isinstance(error, SimileError) else next_step}")
        sys.exit(2 if isinstance(error, BadUsage) else 1)


if __name__ == "__main__":
    run()
