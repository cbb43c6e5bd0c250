"""`simile keys`: who may use the service, and what with."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output
from simile.core.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.catalogue.records import KeyRecord

app = typer.Typer(help="Make, list and revoke keys of the service.", no_args_is_help=True)

KeyNameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses the key; stands in logs.")]
KeyReferenceArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of the key, or its prefix.")]


@app.command()
def create(
    name: KeyNameArgument,
    scope: Annotated[
        str, typer.Option(help="search (look and find), write (also add, describe, decide, delete) or admin (all).")
    ] = "search",
    expires: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="Days until it ends. [default: never]", metavar="DAYS")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute. [default: SIMILE_RATE]")
    ] = None,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Make a key. It is shown once; only its hash is kept. With the first one, every request needs a key."""
    lifetime = None if expires is None else timedelta(days=expires)
    with _open_catalogue(home) as catalogue:
        key, record = catalogue.keys.create(name, scope, rate=rate, lifetime=lifetime)  # type: ignore[arg-type]
    if json:
        output.write_json({"key": key.text} | _make_key_json(record))
        return
    output.write(key.text)
    output.note(f"{record.name}: {record.scope}{_format_key_end(record)}. This is the only time that the key is shown.")


@app.command("list")
def list_keys(
    home: options.HomeOption = None, json: options.JsonOption = False, verbose: options.VerboseOption = False
) -> None:
    """List the keys that were made, the oldest first; never the keys themselves."""
    with _open_catalogue(home, create_home=False) as catalogue:
        found = catalogue.keys.get_all()
    if json:
        output.write_json({"keys": [_make_key_json(record) for record in found]})
    else:
        output.write("\n".join(map(_format_key, found)) or "no keys: the service is open, on this machine alone")


@app.command()
def revoke(
    name: KeyReferenceArgument,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """End a key, and the sessions that were opened with it, within a second in every running service."""
    with _open_catalogue(home, create_home=False) as catalogue:
        record = catalogue.keys.revoke(name)
    output.write_json(_make_key_json(record)) if json else output.write(f"{record.name} is revoked")


@app.command()
def forget(
    name: KeyReferenceArgument,
    home: options.HomeOption = None,
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
) -> None:
    """Remove what is known of a key that was revoked or has expired. A home without any key needs none."""
    with _open_catalogue(home, create_home=False) as catalogue:
        catalogue.keys.delete(name)
    output.write_json({"name": name}) if json else output.write(f"{name} is forgotten")


def _open_catalogue(home: Path | None, *, create_home: bool = True) -> Catalogue:
    """The home's catalogue, brought up to date; with `make`, a home that is not there yet is made."""
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database import schema
    from simile.store.home import Home

    settings = load_settings(home=home)
    found = Home(settings.home, settings.database_url)
    if not create_home and schema.read_revision(found) is None:
        schema.check_schema(found)
    schema.upgrade_schema(found)
    return Catalogue(found)


def _make_key_json(record: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in ("id", "sha256")}


def _format_key(record: KeyRecord) -> str:
    rate = "" if record.rate is None else f"  {record.rate:,} a minute"
    return f"{record.prefix}  {record.scope:6}  {record.name}{rate}  made {record.created_at:%Y-%m-%d}{_format_key_end(record)}"


def _format_key_end(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f", revoked {record.revoked_at:%Y-%m-%d %H:%M} UTC"
    return "" if record.expires_at is None else f", until {record.expires_at:%Y-%m-%d %H:%M} UTC"
