"""The table of commands; errors become messages and exit codes here.

Exit codes: 0 success, 1 an error or a problem was found, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
from io import TextIOWrapper
from typing import cast

from typer import BadParameter
from typer.rich_utils import rich_format_error

from simile.cli import encoders, evaluate, index, keys, maintenance, options, output, search, serve, train
from simile.cli.dedup import command
from simile.cli.explore import attribute, compress, generate, map, measure, quality, traverse
from simile.core.errors import BadUsage, SimileError
from simile.core.logs import configure_logging, escape_controls

# ClickException: the base of all errors in the arguments of a command.
CommandLineError = cast(type[BadParameter], BadParameter.__mro__[2])

app = options.CommandGroup(
    name="simile",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find similar images with a variational autoencoder trained on your own images; show reconstructions.",
)

app.command("train")(train.train)
app.command("index", cls=index.IndexCommand)(index.index)
app.command("search")(search.search)
app.command("words")(search.list_words)
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
app.command("quality")(quality.show_quality)
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
