"""Every setting: its name, default and help sentence, in one place.

Each comes from the environment as `SIMILE_` + its name in capitals. The settings are built at the door
(command line, service) and handed on; nothing reads them from a global.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import BadSetting

Runtime = Literal["auto", "torch", "openvino", "openvino-bf16", "onnxruntime", "compile"]
IndexKind = Literal["auto", "exact", "ivf"]


class Settings(BaseSettings):
    """The table of settings. README and docs/settings.md are held to it by a test."""

    model_config = SettingsConfigDict(env_prefix="SIMILE_", frozen=True)

    home: Path = Field(Path("simile-home"), description="Folder that holds catalogue, encoders and index.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the catalogue, instead of SQLite in the home."
    )
    device: str = Field("auto", description="Where networks run: auto (CUDA if there is one), cpu, cuda.")
    runtime: Runtime = Field(
        "auto", description="What runs networks on a CPU: auto is the fastest that keeps every nearest neighbour."
    )
    workers: int = Field(0, ge=0, le=256, description="Processes that decode pictures; 0: one for each core.")
    max_pixels: int = Field(200_000_000, gt=0, description="A picture with more pixels is refused.")
    max_bytes: int = Field(50_000_000, gt=0, description="A file or upload with more bytes is refused.")
    decode_seconds: float = Field(60.0, gt=0, le=3600, description="A picture that takes longer to decode is refused.")
    background: str = Field(
        "#ffffff",
        pattern="^#[0-9a-fA-F]{6}$",
        description="Colour under transparent pixels when an encoder is trained.",
    )
    batch_size: int = Field(256, gt=0, le=65536, description="Pictures embedded and stored together.")
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

    @field_validator("home")
    @classmethod
    def _can_be_stored(cls, home: Path) -> Path:
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
