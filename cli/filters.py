"""Options that narrow a search down; core/conditions.py says what their texts mean."""

from __future__ import annotations

from typing import Annotated

import typer

MAX_BIGINT = 2**63 - 1  # what SQL calls BIGINT
FILTER_PANEL = "Narrowing down"

LimitOption = Annotated[
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
RadiusOption = Annotated[
    float | None,
    typer.Option(min=0, help="Only pictures at this distance or nearer.", rich_help_panel=FILTER_PANEL),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        help='A condition on what a manifest says, such as "class=shirt" or "price<10"; may be given several times. '
        "Signs: = != < <= > >=.",
        rich_help_panel=FILTER_PANEL,
    ),
]
UnderOption = Annotated[
    str | None,
    typer.Option(help="Only files in this folder or archive.", rich_help_panel=FILTER_PANEL, show_default=False),
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Only files of this format, such as jpeg; may be given several times.", rich_help_panel=FILTER_PANEL
    ),
]
SinceOption = Annotated[
    str | None, typer.Option(help="Only files modified on or after this day or time.", rich_help_panel=FILTER_PANEL)
]
UntilOption = Annotated[
    str | None, typer.Option(help="Only files modified on or before this day or time.", rich_help_panel=FILTER_PANEL)
]
MinBytesOption = Annotated[
    int | None, typer.Option(min=0, max=MAX_BIGINT, help="Least size of a file.", rich_help_panel=FILTER_PANEL)
]
MaxBytesOption = Annotated[
    int | None, typer.Option(min=0, max=MAX_BIGINT, help="Greatest size of a file.", rich_help_panel=FILTER_PANEL)
]
MinWidthOption = Annotated[
    int | None, typer.Option(min=0, max=MAX_BIGINT, help="In pixels.", rich_help_panel=FILTER_PANEL)
]
MaxWidthOption = Annotated[
    int | None, typer.Option(min=0, max=MAX_BIGINT, help="In pixels.", rich_help_panel=FILTER_PANEL)
]
MinHeightOption = Annotated[
    int | None, typer.Option(min=0, max=MAX_BIGINT, help="In pixels.", rich_help_panel=FILTER_PANEL)
]
MaxHeightOption = Annotated[
    int | None, typer.Option(min=0, max=MAX_BIGINT, help="In pixels.", rich_help_panel=FILTER_PANEL)
]
