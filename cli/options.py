"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LONGEST = 525_600.0  # minutes: a year

Home = Annotated[
    Path | None, typer.Option("--home", help="Folder that holds everything. [env: SIMILE_HOME; default: ./simile-home]")
]
Device = Annotated[str | None, typer.Option(help="auto (CUDA if there is one), cpu or cuda. [env: SIMILE_DEVICE]")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Log more, and show the traceback of an error.")]
Photos = Annotated[
    list[Path], typer.Argument(help="Folders or files. Hidden files are passed over.", show_default=False)
]
Limit = Annotated[int, typer.Option("-k", "--limit", min=1, max=1000, help="How many hits.")]
