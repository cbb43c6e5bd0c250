"""`simile keys`: manage the API keys of the service."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simile.cli import options, output

if TYPE_CHECKING:
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.catalogue.records import KeyRecord

app = typer.Typer(help="Create, list and revoke keys of the service.", no_args_is_help=True)

KeyNameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses the key; shown in logs.")]
KeyReferenceArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name or prefix of the key.")]


@app.command()
@options.option_groups
def create(
    common: options.CommonOptions,
    name: KeyNameArgument,
    scope: Annotated[
        str, typer.Option(help="search (read only), write (also add, edit, decide and delete) or admin (everything).")
    ] = "search",
    expires: Annotated[
        float | None,
        typer.Option(min=0.001, max=36_500, help="Days until the key expires. [default: never]", metavar="DAYS"),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Maximum requests per minute. [default: SIMILE_RATE]")
    ] = None,
) -> None:
    """Create a key. It is shown once; only its hash is stored. After the first key, every request needs a key."""
    lifetime = None if expires is None else timedelta(days=expires)
    with _open_catalogue(common) as catalogue:
        key, record = catalogue.keys.create(name, scope, rate=rate, lifetime=lifetime)  # type: ignore[arg-type]
    if common.json:
        output.write_json({"key": key.text} | _make_key_json(record))
        return
    output.write(key.text)
    output.note(f"{record.name}: {record.scope}{_format_key_end(record)}. The key is not shown again.")


@app.command("list")
@options.option_groups
def list_keys(common: options.CommonOptions) -> None:
    """List all keys, oldest first, without their secrets."""
    with _open_catalogue(common, create_home=False) as catalogue:
        records = catalogue.keys.get_all()
    if common.json:
        output.write_json({"keys": [_make_key_json(record) for record in records]})
    else:
        output.write("\n".join(map(_format_key, records)) or "no keys: the service is open, but only on this machine")


@app.command()
@options.option_groups
def revoke(common: options.CommonOptions, name: KeyReferenceArgument) -> None:
    """Revoke a key and its sessions, in every running service within a second."""
    with _open_catalogue(common, create_home=False) as catalogue:
        record = catalogue.keys.revoke(name)
    output.write_json(_make_key_json(record)) if common.json else output.write(f"{record.name} was revoked")


@app.command()
@options.option_groups
def forget(common: options.CommonOptions, name: KeyReferenceArgument) -> None:
    """Delete the record of a revoked or expired key. Without any key, the service needs none."""
    with _open_catalogue(common, create_home=False) as catalogue:
        catalogue.keys.delete(name)
    output.write_json({"name": name}) if common.json else output.write(f"{name} was deleted")


def _open_catalogue(common: options.CommonOptions, *, create_home: bool = True) -> Catalogue:
    """Open the catalogue with the current schema; create the home if needed. Raises NothingIndexed without a home."""
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database import schema
    from simile.store.home import Home

    settings = common.load_settings()
    home = Home(settings.home, settings.database_url)
    if not create_home and schema.read_revision(home) is None:
        schema.check_schema(home)
    schema.upgrade_schema(home)
    return Catalogue(home)


def _make_key_json(record: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in ("id", "sha256")}


def _format_key(record: KeyRecord) -> str:
    rate = "" if record.rate is None else f"  {record.rate:,} per minute"
    created = f"created {record.created_at:%Y-%m-%d}"
    return f"{record.prefix}  {record.scope:6}  {record.name}{rate}  {created}{_format_key_end(record)}"


def _format_key_end(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f", revoked {record.revoked_at:%Y-%m-%d %H:%M} UTC"
    return "" if record.expires_at is None else f", expires {record.expires_at:%Y-%m-%d %H:%M} UTC"
