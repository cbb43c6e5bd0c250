"""The table of commands, and the one place where errors become messages and exit codes.

Exit codes: 0 done, 1 it failed or found something wrong, 2 the command line could not be understood, 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper

import typer

from cli import (
    attribute,
    carry,
    collection,
    dedup,
    encoders,
    evaluate,
    explore,
    explore_compress,
    explore_continuity,
    explore_map,
    explore_measures,
    explore_walks,
    keys,
    look,
    output,
    serve,
    upkeep,
)
from core.errors import BadUsage, SimileError
from core.logs import set_up

app = typer.Typer(
    name="simile",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Finds similar images with a variational autoencoder trained on your own pictures, and shows what it saw.",
)

app.command("train")(collection.train)
app.command("index")(collection.index)
app.command("search")(look.search)
app.command("reconstruct")(look.reconstruct)
app.command("embed")(collection.embed)
app.command("evaluate")(evaluate.evaluate)
app.command("morph")(explore.morph)
app.command("generate")(explore.generate)
app.command("traverse")(explore_walks.traverse)
app.command("manifold")(explore_walks.manifold)
app.add_typer(attribute.app, name="attribute")
app.command("compress")(explore_compress.compress)
app.command("decompress")(explore_compress.decompress)
app.command("map")(explore_map.map_collection)
app.command("outliers")(explore_measures.outliers)
app.command("uncertainty")(explore_measures.uncertainty)
app.command("continuity")(explore_continuity.continuity)
app.add_typer(dedup.app, name="dedup")
app.command("serve")(serve.serve)
app.command("demo")(serve.demo)
app.add_typer(keys.app, name="keys")
app.command("status")(upkeep.status)
app.command("verify")(upkeep.verify)
app.command("rebuild")(upkeep.rebuild)
app.command("compact")(upkeep.compact)
app.add_typer(encoders.app, name="encoders")
app.command("export")(carry.export)
app.command("backup")(carry.backup)
app.command("restore")(carry.restore)


def run() -> None:
    """Entry point of the `simile` command."""
    verbose = "--verbose" in sys.argv
    set_up(verbose)
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
        output.note(f"{type(error).__name__}: {error}{'' if isinstance(error, SimileError) else _next_step(error)}")
        sys.exit(2 if isinstance(error, BadUsage) else 1)


def _next_step(error: Exception) -> str:
    """What to do about an error that simile did not raise itself."""
    if isinstance(error, OSError):
        return ". Check the permissions and the space there, and try again."
    return ". This should not happen: run it again with --verbose, and report what that shows."


if __name__ == "__main__":
    run()
