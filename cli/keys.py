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
    from simile.store.catalogue.keys import KeyRecord

app = typer.Typer(help="Make, list and revoke keys of the service.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses the key; stands in logs.")]
Known = Annotated[str, typer.Argument(metavar="NAME", help="Of the key, or its prefix.")]


@app.command()
def create(
    name: Name,
    scope: Annotated[
        str, typer.Option(help="search (look and find), write (also add, describe, decide, delete) or admin (all).")
    ] = "search",
    expires: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="Days until it ends. [default: never]", metavar="DAYS")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute. [default: SIMILE_RATE]")
    ] = None,
    home: options.Home = None,
    json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Make a key. It is shown once; only its hash is kept. With the first one, every request needs a key."""
    lifetime = None if expires is None else timedelta(days=expires)
    with _catalogue(home) as catalogue:
        key, record = catalogue.create_key(name, scope, rate=rate, lifetime=lifetime)  # type: ignore[arg-type]
    if json:
        output.write_json({"key": key.text} | _shown(record))
        return
    output.write(key.text)
    output.note(f"{record.name}: {record.scope}{_until(record)}. This is the only time that the key is shown.")


@app.command("list")
def list_keys(home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False) -> None:
    """List the keys that were made, the oldest first; never the keys themselves."""
    with _catalogue(home, make=False) as catalogue:
        found = catalogue.all_keys()
    if json:
        output.write_json({"keys": [_shown(record) for record in found]})
    else:
        output.write("\n".join(map(_line, found)) or "no keys: the service is open, on this machine alone")


@app.command()
def revoke(
    name: Known, home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False
) -> None:
    """End a key, and the sessions that were opened with it, within a second in every running service."""
    with _catalogue(home, make=False) as catalogue:
        record = catalogue.revoke_key(name)
    output.write_json(_shown(record)) if json else output.write(f"{record.name} is revoked")


@app.command()
def forget(
    name: Known, home: options.Home = None, json: options.Json = False, verbose: options.Verbose = False
) -> None:
    """Remove what is known of a key that was revoked or has expired. A home without any key needs none."""
    with _catalogue(home, make=False) as catalogue:
        catalogue.forget_key(name)
    output.write_json({"name": name}) if json else output.write(f"{name} is forgotten")


def _catalogue(home: Path | None, *, make: bool = True) -> Catalogue:
    """The home's catalogue, brought up to date; with `make`, a home that is not there yet is made."""
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database import schema
    from simile.store.home import Home

    settings = load_settings(home=home)
    found = Home(settings.home, settings.database_url)
    if not make and schema.revision(found) is None:
        schema.check(found)
    schema.upgrade(found)
    return Catalogue(found)


def _shown(record: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in ("id", "sha256")}


def _line(record: KeyRecord) -> str:
    rate = "" if record.rate is None else f"  {record.rate:,} a minute"
    return f"{record.prefix}  {record.scope:6}  {record.name}{rate}  made {record.created_at:%Y-%m-%d}{_until(record)}"


def _until(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f", revoked {record.revoked_at:%Y-%m-%d %H:%M} UTC"
    return "" if record.expires_at is None else f", until {record.expires_at:%Y-%m-%d %H:%M} UTC"
