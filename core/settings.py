"""All settings with their defaults and help texts.

Each setting comes from the environment variable `SIMILE_` + its name in capitals. The command line and the service
load the settings once and pass them on; there is no global.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from simile.core.errors import BadSetting
from simile.core.hosts import SETTING_PARSERS, parse_objects_url, parse_root_path

RuntimeName = Literal["auto", "torch", "openvino", "openvino-bf16", "onnxruntime", "compile"]
IndexKind = Literal["auto", "exact", "ivf"]
LogFormat = Literal["text", "json"]
SECRET_SETTINGS = ("database_url", "objects")  # a value may contain a password, so messages leave it out


class Settings(BaseSettings):
    """All settings. A test compares docs/settings.md with this class."""

    model_config = SettingsConfigDict(env_prefix="SIMILE_", frozen=True)

    home: Path = Field(Path("simile-home"), description="Folder that holds catalogue, encoders and index.")
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the catalogue, instead of SQLite in the home; PostgreSQL for several hosts.",
    )
    objects: str | None = Field(
        None, description="Object store that several hosts share, s3://BUCKET/PREFIX; without it the home holds all."
    )
    device: str = Field("auto", description="Where networks run: auto (CUDA if there is one), cpu, cuda.")
    runtime: RuntimeName = Field(
        "auto",
        description="Library that runs networks on a CPU; auto is the fastest one that keeps every nearest neighbour.",
    )
    workers: int = Field(0, ge=0, le=256, description="Processes that decode images; 0: one for each core.")
    max_pixels: int = Field(200_000_000, gt=0, description="An image with more pixels is rejected.")
    max_bytes: int = Field(50_000_000, gt=0, description="A file or upload with more bytes is rejected.")
    decode_seconds: float = Field(
        60.0, gt=0, le=3600, description="An image that takes longer to decode in a worker process is rejected."
    )
    upload_cpu_seconds: float = Field(
        2.0, gt=0, le=3600, description="CPU time that decoding the files of one request may take."
    )
    upload_memory: int = Field(
        600_000_000, ge=100_000_000, description="Bytes of memory that decoding a file of a request may take."
    )
    cache_bytes: int = Field(
        1_000_000_000,
        ge=0,
        description="Bytes that thumbnails, and files from compressed archives, take in the home; 0: none are kept.",
    )
    background: str = Field(
        "#ffffff",
        pattern="^#[0-9a-fA-F]{6}$",
        description="Colour under transparent pixels when an encoder is trained.",
    )
    gps: bool = Field(True, description="Store where a photo was taken, if the file tells; false: no place is stored.")
    batch_size: int = Field(256, gt=0, le=65536, description="Images that are embedded and stored together.")
    train_memory: int = Field(
        2_000_000_000,
        ge=0,
        description="Bytes of images that training holds in memory; more are read from a temporary file in the home.",
    )
    index: IndexKind = Field(
        "auto",
        description="Kind of vector index: exact, ivf (inverted lists, approximate), or auto, chosen by the count.",
    )
    index_memory: int = Field(
        1 << 30, gt=0, description="Memory of the vector index in bytes; auto chooses a kind that fits."
    )
    recall: float = Field(
        0.98,
        gt=0,
        le=1,
        description="Share of the 10 nearest that an approximate index must find, measured when it is built.",
    )
    host: str = Field("127.0.0.1", description="Address that `simile serve` listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that `simile serve` listens on.")
    serve_workers: int = Field(
        1, ge=1, le=64, description="Processes that answer requests, each with its own copy of the index."
    )
    queue: int = Field(
        128,
        ge=1,
        le=100_000,
        description="Requests with images, and prices of computing requests, that a process accepts at a time; further "
        "ones get 503.",
    )
    queue_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of SIMILE_QUEUE and of temporary space for one address, except this machine's; 1: all.",
    )
    connections: int = Field(
        512, ge=1, le=100_000, description="Connections that a process keeps open; further ones get 503."
    )
    upload_seconds: float = Field(
        30.0, gt=0, le=3600, description="Time limit of an upload, plus one second for each 32 KiB."
    )
    answer_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Time limit of a response; after it the client gets 503, or is disconnected if it does not read.",
    )
    log: LogFormat = Field(
        "text", description="Format of the service's log on stderr: text, or json with one object a line."
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Address that serves only /metrics, if SIMILE_METRICS_PORT is set."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Port that serves only /metrics, without a key; 0: none.")
    insecure: bool = Field(False, description="Serve without keys to everybody who can reach the address.")
    allowed_hosts: str | None = Field(
        None, description="Allowed Host headers besides localhost: photos.example,10.0.0.5."
    )
    cors_origins: str | None = Field(
        None, description="Origins whose pages may use the API with a key: https://app.example."
    )
    trusted_proxies: str | None = Field(
        None, description="Addresses of proxies whose X-Forwarded-For and -Proto are trusted: 10.0.0.2,172.16.0.0/12."
    )
    root_path: str | None = Field(None, description="Path prefix under which a proxy shows the service: /photos.")
    mcp: bool = Field(False, description="Serve agents at /mcp, by the Model Context Protocol; needs simile[mcp].")
    rate: int = Field(
        0, ge=0, le=1_000_000, description="Requests a minute for each key and each address; 0: unlimited."
    )
    upload_quota: int = Field(
        0, ge=0, description="Bytes of uploads for a key without a quota, and for all without a key; 0: unlimited."
    )
    roots: str | None = Field(
        None, description="Folders that may be indexed over HTTP, by name: photos=/pictures,scans=/scans."
    )

    @field_validator(*SETTING_PARSERS)
    @classmethod
    def _check_lists(cls, value: str | None, info: ValidationInfo) -> str | None:
        SETTING_PARSERS[str(info.field_name)](value)
        return value

    @field_validator("objects")
    @classmethod
    def _check_objects(cls, value: str | None) -> str | None:
        return None if value is None else parse_objects_url(value)

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str | None) -> str | None:
        return parse_root_path(value or "") or None

    @field_validator("home")
    @classmethod
    def _check_home(cls, home: Path) -> Path:
        try:
            str(home.absolute()).encode()
        except UnicodeEncodeError:
            raise ValueError("the folder's name is not valid UTF-8") from None
        return home


def load_settings(**overrides: object) -> Settings:
    """Load the settings from the environment; `overrides` that are not None win. Raises BadSetting."""
    values = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        reason = first["msg"].removeprefix("Value error, ")
        value = "this URL" if name in SECRET_SETTINGS else repr(str(first.get("input")))
        raise BadSetting(
            f"{name} (SIMILE_{name.upper()}) can't be {value}: {reason}. "
            "See docs/settings.md for the values that it takes."
        ) from None
