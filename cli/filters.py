"""Options that narrow a search down; core/conditions.py says what their texts mean."""

from __future__ import annotations

from typing import Annotated

import typer

MOST = 2**63 - 1  # what SQL calls BIGINT
PANEL = "Narrowing down"

Limit = Annotated[
    int | None,
    typer.Option(
        "-k",
        "--limit",
        min=1,
        max=1000,
        help="How many hits: 10 unless given, or all with --within.",
        show_default=False,
    ),
]
Within = Annotated[
    float | None,
    typer.Option(min=0, help="Only pictures at this distance or nearer.", rich_help_panel=PANEL),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help='A condition on what a manifest says, such as "class=shirt" or "price<10"; may be given several times. '
        "Signs: = != < <= > >=.",
        rich_help_panel=PANEL,
    ),
]
Under = Annotated[
    str | None, typer.Option(help="Only files in this folder or archive.", rich_help_panel=PANEL, show_default=False)
]
Format = Annotated[
    list[str] | None,
    typer.Option(help="Only files of this format, such as jpeg; may be given several times.", rich_help_panel=PANEL),
]
Since = Annotated[
    str | None, typer.Option(help="Only files modified on or after this day or time.", rich_help_panel=PANEL)
]
Until = Annotated[
    str | None, typer.Option(help="Only files modified on or before this day or time.", rich_help_panel=PANEL)
]
MinBytes = Annotated[int | None, typer.Option(min=0, max=MOST, help="Least size of a file.", rich_help_panel=PANEL)]
MaxBytes = Annotated[int | None, typer.Option(min=0, max=MOST, help="Greatest size of a file.", rich_help_panel=PANEL)]
MinWidth = Annotated[int | None, typer.Option(min=0, max=MOST, help="In pixels.", rich_help_panel=PANEL)]
MaxWidth = Annotated[int | None, typer.Option(min=0, max=MOST, help="In pixels.", rich_help_panel=PANEL)]
MinHeight = Annotated[int | None, typer.Option(min=0, max=MOST, help="In pixels.", rich_help_panel=PANEL)]
MaxHeight = Annotated[int | None, typer.Option(min=0, max=MOST, help="In pixels.", rich_help_panel=PANEL)]
