"""Every setting: its name, default and help sentence, in one place.

Each comes from the environment as `SIMILE_` + its name in capitals. The settings are built at the door
(command line, service) and handed on; nothing reads them from a global.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from simile.core.errors import BadSetting
from simile.core.hosts import SETTING_PARSERS
from simile.core.index_roots import parse_roots

RuntimeName = Literal["auto", "torch", "openvino", "openvino-bf16", "onnxruntime", "compile"]
IndexKind = Literal["auto", "exact", "ivf"]
LogFormat = Literal["text", "json"]


class Settings(BaseSettings):
    """The table of settings. README and docs/settings.md are held to it by a test."""

    model_config = SettingsConfigDict(env_prefix="SIMILE_", frozen=True)

    home: Path = Field(Path("simile-home"), description="Folder that holds catalogue, encoders and index.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the catalogue, instead of SQLite in the home."
    )
    device: str = Field("auto", description="Where networks run: auto (CUDA if there is one), cpu, cuda.")
    runtime: RuntimeName = Field(
        "auto", description="What runs networks on a CPU: auto is the fastest that keeps every nearest neighbour."
    )
    workers: int = Field(0, ge=0, le=256, description="Processes that decode pictures; 0: one for each core.")
    max_pixels: int = Field(200_000_000, gt=0, description="A picture with more pixels is refused.")
    max_bytes: int = Field(50_000_000, gt=0, description="A file or upload with more bytes is refused.")
    decode_seconds: float = Field(
        60.0, gt=0, le=3600, description="A picture that takes longer to decode in a worker process is refused."
    )
    background: str = Field(
        "#ffffff",
        pattern="^#[0-9a-fA-F]{6}$",
        description="Colour under transparent pixels when an encoder is trained.",
    )
    batch_size: int = Field(256, gt=0, le=65536, description="Pictures embedded and stored together.")
    train_memory: int = Field(
        2_000_000_000,
        ge=0,
        description="Bytes of images that training holds in memory; more are read from a temporary file in the home.",
    )
    index: IndexKind = Field(
        "auto",
        description="Kind of vector index: exact, ivf (inverted lists, approximate), or auto: what the count asks.",
    )
    index_memory: int = Field(
        1 << 30, gt=0, description="Bytes that the vector index may take in memory; auto keeps to them."
    )
    recall: float = Field(
        0.98,
        gt=0,
        le=1,
        description="Share of the 10 nearest that an approximate index must find, measured as it is made.",
    )
    host: str = Field("127.0.0.1", description="Address that `simile serve` listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that `simile serve` listens on.")
    serve_workers: int = Field(
        1, ge=1, le=64, description="Processes that answer requests, each with its own copy of the index."
    )
    queue: int = Field(
        128, ge=1, le=100_000, description="Requests with pictures that a process takes in at a time; the next get 503."
    )
    queue_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of those places that one address may hold, this machine's own aside; 1: all.",
    )
    connections: int = Field(512, ge=1, le=100_000, description="Connections that a process holds; the next get 503.")
    upload_seconds: float = Field(
        30.0, gt=0, le=3600, description="An upload may take so long, and a second more for each 32 KiB of it."
    )
    answer_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="What is not answered after so long gets 503; a client that reads no answer is cut off.",
    )
    log: LogFormat = Field(
        "text", description="How the service writes its log to stderr: text, or json, one object a line."
    )
    metrics_host: str = Field("127.0.0.1", description="Address for /metrics alone, if SIMILE_METRICS_PORT is given.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port for /metrics alone, where no key is asked for; 0: none."
    )
    insecure: bool = Field(False, description="Serve without keys to everybody who can reach the address.")
    allowed_hosts: str | None = Field(
        None, description="Names that the service is asked for by, beside localhost: photos.example,10.0.0.5."
    )
    cors_origins: str | None = Field(
        None, description="Origins whose pages may use the API with a key: https://app.example."
    )
    trusted_proxies: str | None = Field(
        None, description="Addresses of proxies whose X-Forwarded-For and -Proto are believed: 10.0.0.2,172.16.0.0/12."
    )
    rate: int = Field(
        0, ge=0, le=1_000_000, description="Requests a minute for one key, and for one address; 0: as many as come."
    )
    roots: str | None = Field(
        None, description="Folders that may be indexed over HTTP, by name: photos=/pictures,scans=/scans."
    )

    @field_validator("roots")
    @classmethod
    def _check_roots(cls, roots: str | None) -> str | None:
        parse_roots(roots)
        return roots

    @field_validator("allowed_hosts", "cors_origins", "trusted_proxies")
    @classmethod
    def _check_lists(cls, value: str | None, info: ValidationInfo) -> str | None:
        SETTING_PARSERS[str(info.field_name)](value)
        return value

    @field_validator("home")
    @classmethod
    def _check_home(cls, home: Path) -> Path:
        try:
            str(home.absolute()).encode()
        except UnicodeEncodeError:
            raise ValueError("the folder's name is not valid UTF-8") from None
        return home


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides` that are not None win. Raises BadSetting."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        reason = first["msg"].removeprefix("Value error, ")
        raise BadSetting(
            f"{name} (SIMILE_{name.upper()}) can't be {str(first.get('input'))!r}: {reason}. "
            f"See docs/settings.md for what it takes."
        ) from None
