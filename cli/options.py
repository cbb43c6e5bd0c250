"""Arguments, options and groups of options that several commands share."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer import Argument, Option
from typer.models import CommandFunctionType

from simile.cli import output
from simile.core.atomic_write import check_output_path
from simile.core.errors import BadUsage

if TYPE_CHECKING:
    from simile.core.records import Filter
    from simile.core.settings import Settings
    from simile.images.sources.paths import PathPatterns
    from simile.search.searcher import Searcher
    from simile.store.home import Home

MAX_DURATION = 525_600.0  # a year in minutes
MAX_BIGINT = 2**63 - 1  # the largest SQL BIGINT
MAX_SEED = 2**32 - 1  # the largest seed that scikit-learn takes
_FILTER_PANEL = "Filters"

HomeOption = Annotated[
    Path | None, Option("--home", help="Folder that holds everything. [env: SIMILE_HOME; default: ./simile-home]")
]
DeviceOption = Annotated[str | None, Option(help="auto (CUDA if there is a GPU), cpu or cuda. [env: SIMILE_DEVICE]")]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object.")]
VerboseOption = Annotated[bool, Option("--verbose", help="Log more; show the traceback of an error.")]
WaitOption = Annotated[
    float, Option(min=0, max=MAX_DURATION, help="Seconds to wait while another process uses the home.")
]
_PHOTOS = Argument(
    help="Folders, files, archives (.tar, .tar.gz, .zip …), manifests (.csv or .parquet with a column `path`), "
    "quoted patterns ('photos/**/*.jpg'), folders of an S3 store (s3://bucket/photos), or - to read a list from stdin. "
    "Hidden files are skipped.",
    show_default=False,
)
PhotosArgument = Annotated[list[Path], _PHOTOS]
OptionalPhotosArgument = Annotated[list[Path] | None, _PHOTOS]
IncludeOption = Annotated[
    list[str] | None, Option(help="Only files that match this .gitignore pattern; can be repeated.")
]
ExcludeOption = Annotated[
    list[str] | None, Option(help="Skip files and folders that match this .gitignore pattern; can be repeated.")
]
ImageArgument = Annotated[Path | None, Argument(help="Image file; need not be indexed.", show_default=False)]
ImageIdOption = Annotated[int | None, Option("--id", max=MAX_BIGINT, help="Id of an indexed image instead.")]
ImageIdsOption = Annotated[
    list[int] | None, Option("--id", max=MAX_BIGINT, help="Id of an indexed image; can be repeated.")
]
EncoderOption = Annotated[
    str | None,
    Option(
        help="Name, folder or fingerprint of the encoder, or shipped. [default: the active one]", show_default=False
    ),
]
PngOption = Annotated[Path | None, Option("--output", "-o", help="The .png to write.", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options of almost every command; `verbose` is read in main.py."""

    home: HomeOption = None
    json: JsonOption = False
    verbose: VerboseOption = False

    def load_settings(self, **others: object) -> Settings:
        """Load the settings with these options and others. Raises BadSetting."""
        from simile.core.settings import load_settings

        values = {name: value for name, value in vars(self).items() if name not in ("json", "verbose")}
        return load_settings(**values, **others)

    def get_home(self) -> Home:
        """Return the home, which need not exist."""
        from simile.store.home import Home

        settings = self.load_settings()
        return Home.from_settings(settings)

    def open_searcher(self) -> Searcher:
        """Open the home for searches."""
        from simile.search.searcher import Searcher

        return Searcher(self.load_settings())

    def show(self, body: Any, text: str | Sequence[str], *notes: str) -> None:
        """Show the result of a command: `body` with --json; else a line or lines, and the notes on stderr."""
        if self.json:
            output.write_json(body)
            return
        output.write(*([text] if isinstance(text, str) else text))
        for note in notes:
            output.note(note)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(CommonOptions):
    """Options of a command that uses an encoder."""

    device: DeviceOption = None


def output_option(help_text: str) -> Any:
    """Return the option --output."""
    return Option("--output", "-o", help=help_text)


def _filter_option(help_text: str) -> Any:
    return Option(help=help_text, rich_help_panel=_FILTER_PANEL, show_default=False)


def _size_option(help_text: str) -> Any:
    return Option(help=help_text, rich_help_panel=_FILTER_PANEL, min=0, max=MAX_BIGINT)


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Options that filter images; core/filters/parser.py parses their values."""

    where: Annotated[
        list[str] | None,
        _filter_option(
            'Condition on metadata, such as "class=shirt" or "class=shirt and not price<10"; can be repeated. '
            "Operators: = != < <= > >=, contains, in (a, b), exists; and, or, not, parentheses (docs/filters.md)."
        ),
    ] = None
    under: Annotated[str | None, _filter_option("Only files in this folder or archive.")] = None
    format: Annotated[list[str] | None, _filter_option("Only files of this format, such as jpeg; can be repeated.")] = (
        None
    )
    min_bytes: Annotated[int | None, _size_option("Minimum file size.")] = None
    max_bytes: Annotated[int | None, _size_option("Maximum file size.")] = None
    min_width: Annotated[int | None, _size_option("Minimum width in pixels.")] = None
    max_width: Annotated[int | None, _size_option("Maximum width in pixels.")] = None
    min_height: Annotated[int | None, _size_option("Minimum height in pixels.")] = None
    max_height: Annotated[int | None, _size_option("Maximum height in pixels.")] = None
    since: Annotated[str | None, _filter_option("Only files modified on or after this date or time.")] = None
    until: Annotated[str | None, _filter_option("Only files modified on or before this date or time.")] = None
    taken: Annotated[str | None, _filter_option("Only photos taken then, such as 2024-05 or 2024-05..2024-06-15.")] = (
        None
    )
    camera: Annotated[str | None, _filter_option("Only photos of a camera with this in its name.")] = None
    rating: Annotated[str | None, _filter_option('Only photos with this rating, such as 5 or ">=3".')] = None
    keyword: Annotated[list[str] | None, _filter_option("Only photos with this keyword; can be repeated.")] = None
    near: Annotated[
        str | None, _filter_option("Only photos taken near a place: latitude,longitude,distance: 52.5,13.4,10km.")
    ] = None

    def to_filter(self) -> Filter | None:
        """Make the filter without reading the home; None without any option. Raises BadSetting."""
        from simile.core.filters.parser import make_filter
        from simile.images.sources.real_folders import make_absolute_folder

        under = None if self.under is None else make_absolute_folder(self.under)
        values = vars(self) | {"where": self.where or (), "keyword": self.keyword or (), "under": under}
        return make_filter(formats=values.pop("format") or (), **values)


class CommandGroup(typer.Typer):
    """A group of commands with parameters that can be groups of options (dataclasses)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(add_completion=False, rich_markup_mode="markdown", **settings)

    def command(self, *args: Any, **settings: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Add a command; see _expand_groups."""
        return _after_expanding(super().command(*args, **settings))

    def callback(self, *args: Any, **settings: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Set what runs before a subcommand, or without one."""
        return _after_expanding(super().callback(*args, **settings))


def _after_expanding(add: Callable[..., Any]) -> Callable[[CommandFunctionType], CommandFunctionType]:
    def add_command(command: CommandFunctionType) -> CommandFunctionType:
        add(_expand_groups(command))
        return command

    return add_command


def _expand_groups(command: Callable[..., Any]) -> Callable[..., None]:
    """Return a function with an option for each field of a group; `command` gets the group.

    The options of groups are listed last.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {
        name: parameter.annotation for name, parameter in parameters.items() if is_dataclass(parameter.annotation)
    }

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    options = {name: parameter for name, parameter in parameters.items() if name not in groups}
    for group in groups.values():
        types = get_type_hints(group, include_extras=True)
        for field in fields(group):
            options[field.name] = inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
            )
    # Typer reads the signature and the annotations.
    ordered = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in options.values()]
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    return run


def parse_byte_count(text: str) -> int:
    """Return a number of bytes, such as 5000, 500MB or 1.5 GB. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?(|[kMGT])B?", text.strip(), re.IGNORECASE)
    count = int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if not 0 < count <= MAX_BIGINT:
        raise ValueError(f"{text!r} is no number of bytes, such as 5000, 500MB or 1.5GB")
    return count


def make_patterns(include: list[str] | None, exclude: list[str] | None) -> PathPatterns:
    """Make the patterns of --include and --exclude."""
    from simile.images.sources.paths import PathPatterns

    return PathPatterns(tuple(include or ()), tuple(exclude or ()))


def pass_home_to_subcommand(context: typer.Context, home: Path | None) -> bool:
    """Return whether a subcommand follows; `dedup --home H undo` is then the same as `dedup undo --home H`."""
    if context.invoked_subcommand is None:
        return False
    context.default_map = {context.invoked_subcommand: {"home": home}}
    return True


def get_query(image: Path | None, image_id: int | None) -> Path | int:
    """Return the image file or the id, whichever is given. Raises BadUsage for none or both, NoSuchPath."""
    query = image_id if image is None else image
    if query is None or (image is not None and image_id is not None):
        raise BadUsage("Give an image file or --id, and not both.")
    check_files([query])
    return query


def check_files(inputs: Iterable[Path | int]) -> None:
    """Check the files among files and ids, before the work. Raises NoSuchPath."""
    from simile.images.sources.sources import check_file

    for file in inputs:
        if isinstance(file, Path):
            check_file(file)


def check_output(output_path: Path | None, suffixes: Sequence[str], *, or_json: bool | None = None) -> None:
    """Check that an output file can be written, before the work.

    Args:
        output_path: The file, if any.
        suffixes: Allowed suffixes; empty for any.
        or_json: Whether --json is given, for a command that needs --output or --json.

    Raises:
        BadUsage: If there is neither --output nor --json.
        BadSetting: If the file cannot be written.
    """
    if output_path is not None:
        check_output_path(output_path, suffixes)
    elif or_json is False:
        raise BadUsage(f"Give --output with a {' or '.join(suffixes)} file, or --json.")
