"""The table of commands, and the one place where errors become messages and exit codes.

Exit codes: 0 done, 1 it failed or found something wrong, 2 the command line could not be understood, 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper

import typer

from simile.cli import backup, embed, encoders, evaluate, index, keys, maintenance, output, search, serve, train
from simile.cli.dedup import command
from simile.cli.explore import attribute, compress, continuity, generate, map, measure, traverse
from simile.core.errors import BadUsage, SimileError
from simile.core.logs import configure_logging

app = typer.Typer(
    name="simile",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Finds similar images with a variational autoencoder trained on your own pictures, and shows what it saw.",
)

app.command("train")(train.train)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("reconstruct")(search.reconstruct)
app.command("embed")(embed.embed)
app.command("evaluate")(evaluate.evaluate)
app.command("morph")(generate.morph)
app.command("generate")(generate.generate)
app.command("traverse")(traverse.traverse)
app.command("manifold")(traverse.show_manifold)
app.add_typer(attribute.app, name="attribute")
app.command("compress")(compress.compress)
app.command("decompress")(compress.decompress)
app.command("map")(map.map_collection)
app.command("outliers")(measure.show_outliers)
app.command("uncertainty")(measure.show_uncertainty)
app.command("continuity")(continuity.show_continuity)
app.add_typer(command.app, name="dedup")
app.command("serve")(serve.serve)
app.command("demo")(serve.run_demo_command)
app.add_typer(keys.app, name="keys")
app.command("status")(maintenance.show_status)
app.command("verify")(maintenance.verify)
app.command("rebuild")(maintenance.rebuild)
app.command("compact")(maintenance.compact)
app.add_typer(encoders.app, name="encoders")
app.command("export")(backup.export)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)


def run() -> None:
    """Entry point of the `simile` command."""
    verbose = "--verbose" in sys.argv
    configure_logging(verbose)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that can't show a name shows its escapes
    try:
        app()
    except BrokenPipeError:  # `simile … | head`
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if verbose:
            logging.getLogger("simile").exception("what led to it:")
        output.note(f"{type(error).__name__}: {error}{'' if isinstance(error, SimileError) else _get_next_step(error)}")
        sys.exit(2 if isinstance(error, BadUsage) else 1)


def _get_next_step(error: Exception) -> str:
    """What to do about an error that simile did not raise itself."""
    if isinstance(error, OSError):
        return ". Check the permissions and the space there, and try again."
    return ". This should not happen: run it again with --verbose, and report what that shows."


if __name__ == "__main__":
    run()
