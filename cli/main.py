"""The table of commands; errors become messages and exit codes here.

Exit codes: 0 success, 1 an error or a problem was found, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper

from simile.cli import encoders, evaluate, index, keys, maintenance, options, output, search, serve, train
from simile.cli.dedup import command
from simile.cli.explore import attribute, compress, generate, map, measure, traverse
from simile.core.errors import BadUsage, SimileError
from simile.core.logs import configure_logging

app = options.CommandGroup(
    name="simile",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find similar images with a variational autoencoder trained on your own images; show reconstructions.",
)

app.command("train")(train.train)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("reconstruct")(search.reconstruct)
app.command("embed")(index.embed)
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
app.command("continuity")(measure.show_continuity)
app.add_typer(command.app, name="dedup")
app.command("serve")(serve.serve)
app.command("demo")(serve.run_demo_command)
app.add_typer(keys.app, name="keys")
app.command("status")(maintenance.show_status)
app.command("verify")(maintenance.verify)
app.command("rebuild")(maintenance.rebuild)
app.command("compact")(maintenance.compact)
app.add_typer(encoders.app, name="encoders")
app.command("export")(maintenance.export)
app.command("backup")(maintenance.backup)
app.command("restore")(maintenance.restore)


def run() -> None:
    """Run the `simile` command: its entry point."""
    verbose = "--verbose" in sys.argv
    configure_logging(verbose)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode shows escapes
    try:
        app()
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
