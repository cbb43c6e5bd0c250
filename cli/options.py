"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from simile.images.sources.paths import PathPatterns


def make_patterns(include: list[str] | None, exclude: list[str] | None) -> PathPatterns:
    """What --include and --exclude mean together."""
    from simile.images.sources.paths import PathPatterns

    return PathPatterns(tuple(include or ()), tuple(exclude or ()))


MAX_DURATION = 525_600.0  # minutes: a year

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder that holds everything. [env: SIMILE_HOME; default: ./simile-home]")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="auto (CUDA if there is one), cpu or cuda. [env: SIMILE_DEVICE]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Log more, and show the traceback of an error.")]
PhotosArgument = Annotated[
    list[Path],
    typer.Argument(
        help="Folders, files, archives (.tar, .tar.gz, .zip …), manifests (.csv or .parquet with a column `path`), "
        "patterns in quotes ('photos/**/*.jpg'), or - for a list on stdin. Hidden files are passed over.",
        show_default=False,
    ),
]
IncludeOption = Annotated[
    list[str] | None, typer.Option(help="Only files that match this pattern, as in .gitignore; may be repeated.")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="No files or folders that match this pattern; may be repeated.")
]
HitLimitOption = Annotated[int, typer.Option("-k", "--limit", min=1, max=1000, help="How many hits.")]
