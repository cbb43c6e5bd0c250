"""`simile keys`: manage the API keys of the service."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from simile.cli import options, output

if TYPE_CHECKING:
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.catalogue.records import KeyRecord

app = options.CommandGroup(help="Create, list and revoke keys of the service.", no_args_is_help=True)

KeyNameArgument = Annotated[str, Argument(metavar="NAME", help="Who or what uses the key; shown in logs.")]
KeyReferenceArgument = Annotated[str, Argument(metavar="NAME", help="Name or prefix of the key.")]


@app.command()
def create(
    common: options.CommonOptions,
    name: KeyNameArgument,
    scope: Annotated[
        str, Option(help="search (read only), write (also add, edit, decide and delete) or admin (everything).")
    ] = "search",
    expires: Annotated[
        float | None, Option(min=0.001, max=36_500, help="Days until the key expires. [default: never]", metavar="DAYS")
    ] = None,
    rate: Annotated[
        int | None, Option(min=1, max=1_000_000, help="Maximum requests per minute. [default: SIMILE_RATE]")
    ] = None,
    quota: Annotated[
        int | None,
        Option(
            parser=options.parse_byte_count,
            help="Bytes of images that it may upload, such as 500MB. [default: SIMILE_UPLOAD_QUOTA]",
            metavar="BYTES",
        ),
    ] = None,
) -> None:
    """Create a key. It is shown once; only its hash is stored. After the first key, every request needs a key."""
    lifetime = None if expires is None else timedelta(days=expires)
    with _open_catalogue(common) as catalogue:
        key, record = catalogue.keys.create(name, scope, rate=rate, quota=quota, lifetime=lifetime)  # type: ignore[arg-type]
    note = f"{record.name}: {record.scope}{_format_key_end(record)}. The key is not shown again."
    common.show({"key": key.text} | _make_key_json(record), key.text, note)


@app.command("list")
def list_keys(common: options.CommonOptions) -> None:
    """List all keys, oldest first, without their secrets."""
    with _open_catalogue(common, create_home=False) as catalogue:
        records, uploaded = catalogue.keys.get_all(), catalogue.keys.count_uploaded_bytes()
        reserve = catalogue.home.keys_reserve
    state = "the service is open, but only on this machine"
    if reserve.exists():
        state = f"but this home had keys, so it stays closed. Create one; or delete {reserve} to open the home"
    lines = [_format_key(record, uploaded.get(record.id, 0)) for record in records] or [f"no keys: {state}"]
    keys = [_make_key_json(record) | {"uploaded_bytes": uploaded.get(record.id, 0)} for record in records]
    common.show({"keys": keys}, lines)


@app.command()
def revoke(common: options.CommonOptions, name: KeyReferenceArgument) -> None:
    """Revoke a key and its sessions, in every running service within a second."""
    with common.get_home().use_keys_reserve(), _open_catalogue(common, create_home=False) as catalogue:
        record = catalogue.keys.revoke(name)
    common.show(_make_key_json(record), f"{record.name} was revoked")


@app.command()
def forget(common: options.CommonOptions, name: KeyReferenceArgument) -> None:
    """Delete the record of a revoked or expired key. Without any key, the service needs none."""
    with common.get_home().use_keys_reserve(), _open_catalogue(common, create_home=False) as catalogue:
        catalogue.keys.delete(name)
    common.show({"name": name}, f"{name} was deleted")


def _open_catalogue(common: options.CommonOptions, *, create_home: bool = True) -> Catalogue:
    """Open the catalogue with the current schema; create the home if needed. Raises NothingIndexed without a home."""
    from simile.store.catalogue.catalogue import Catalogue
    from simile.store.database import schema

    home = common.get_home()
    if not create_home and schema.read_revision(home) is None:
        schema.check_schema(home)
    schema.upgrade_schema(home)
    return Catalogue(home)


def _make_key_json(record: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in ("id", "sha256")}


def _format_key(record: KeyRecord, uploaded: int) -> str:
    rate = "" if record.rate is None else f"  {record.rate:,} per minute"
    if record.quota is not None:
        rate += f"  uploads {output.format_size(uploaded)} of {output.format_size(record.quota)}"
    created = f"created {record.created_at:%Y-%m-%d}"
    return f"{record.prefix}  {record.scope:6}  {record.name}{rate}  {created}{_format_key_end(record)}"


def _format_key_end(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f", revoked {record.revoked_at:%Y-%m-%d %H:%M} UTC"
    return "" if record.expires_at is None else f", expires {record.expires_at:%Y-%m-%d %H:%M} UTC"
