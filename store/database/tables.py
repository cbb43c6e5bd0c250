"""The catalogue's tables. Only store/ uses these classes; other packages get the records of catalogue/records.py.

Column types are portable: SQLite is the default, PostgreSQL must be possible. Vectors are stored as float32,
little-endian, without a header; `dimensions` of the encoder is their length.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Every constraint has a name, so that a later migration can drop it in any database.
NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC. SQLite drops the time zone, so it is added again when a value is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert to UTC before storing."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Add the time zone after reading."""
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


class Nanoseconds(TypeDecorator[int]):
    """A time since 1970, clipped to 1823 to 2116: the range that all databases store."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Clip the value before storing."""
        return None if value is None else max(-MAX_NANOSECONDS, min(value, MAX_NANOSECONDS))


MAX_NANOSECONDS = 2**62


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


# Paths and metadata are compared byte by byte: the default of SQLite, the collation "C" of PostgreSQL.
BytewiseString = String().with_variant(String(collation="C"), "postgresql")
# An id; in SQLite only an INTEGER can be generated, which has 64 bits there.
IdType = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """Base class of all tables."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime}


class EncoderRow(Base):
    """A trained encoder. `index_dims`: the indexed dimensions of mu (null: all, n: the first n, or a list)."""

    __tablename__ = "encoders"
    __table_args__ = (CheckConstraint("metric IN ('l2', 'cosine')", name="metric"),)

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    recipe: Mapped[str]
    dimensions: Mapped[int]
    index_dims: Mapped[int | list[int] | None] = mapped_column(JSON(none_as_null=True))
    metric: Mapped[str]
    created_at: Mapped[datetime]


class ImageRow(Base):
    """An image, identified by its content. Its id is also the id of its vectors and is never reused: AUTOINCREMENT."""

    __tablename__ = "images"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  # SQLAlchemy declares it so

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[datetime]


class LocationRow(Base):
    """A file that holds an image. `failure`: why it could not be read when it was read last; null: it could."""

    __tablename__ = "locations"

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    image_id: Mapped[int] = mapped_column(IdType, ForeignKey("images.id", ondelete="CASCADE"), index=True)
    path: Mapped[str] = mapped_column(BytewiseString, unique=True)
    mtime_ns: Mapped[int] = mapped_column(Nanoseconds)
    size: Mapped[int] = mapped_column(BigInteger)
    failure: Mapped[str | None]


class MetadataRow(Base):
    """One item of a file's metadata: `text` as given, `number` if the text is a number."""

    __tablename__ = "metadata"
    __table_args__ = (
        Index("ix_metadata_name_text", "name", "text"),
        Index("ix_metadata_name_number", "name", "number"),
    )

    location_id: Mapped[int] = mapped_column(IdType, ForeignKey("locations.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(BytewiseString, primary_key=True)
    text: Mapped[str] = mapped_column(BytewiseString)
    number: Mapped[float | None]


class PhotoMetadataRow(Base):
    """The EXIF, XMP and IPTC metadata of a photo: PhotoMetadata of core/records.py. A file without any has no row.

    `taken` is the local time of the camera, so that a range of days needs no time zone; `taken_offset`: its minutes
    ahead of UTC, if known.
    """

    __tablename__ = "photo_metadata"

    location_id: Mapped[int] = mapped_column(IdType, ForeignKey("locations.id", ondelete="CASCADE"), primary_key=True)
    taken: Mapped[datetime | None] = mapped_column(DateTime(), index=True)
    taken_offset: Mapped[int | None]
    camera: Mapped[str | None] = mapped_column(BytewiseString, index=True)
    lens: Mapped[str | None] = mapped_column(BytewiseString)
    exposure_time: Mapped[float | None]  # seconds
    aperture: Mapped[float | None]
    iso: Mapped[int | None]
    focal_length: Mapped[float | None]  # millimetres
    latitude: Mapped[float | None] = mapped_column(index=True)  # degrees
    longitude: Mapped[float | None]
    rating: Mapped[int | None] = mapped_column(index=True)
    title: Mapped[str | None]
    description: Mapped[str | None]
    copyright: Mapped[str | None]


class PhotoKeywordRow(Base):
    """A keyword of a photo."""

    __tablename__ = "photo_keywords"

    location_id: Mapped[int] = mapped_column(
        IdType, ForeignKey("photo_metadata.location_id", ondelete="CASCADE"), primary_key=True
    )
    keyword: Mapped[str] = mapped_column(BytewiseString, primary_key=True, index=True)


class ImageQualityRow(Base):
    """Measures of the pixels of an image: ImageQuality of core/records.py."""

    __tablename__ = "image_quality"

    image_id: Mapped[int] = mapped_column(IdType, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    sharpness: Mapped[float | None] = mapped_column(index=True)
    brightness: Mapped[float]
    brightness_p5: Mapped[float]
    brightness_p99: Mapped[float]
    contrast: Mapped[float]
    shadows: Mapped[float]
    highlights: Mapped[float]
    profile: Mapped[str]


class QualityLimitRow(Base):
    """The limits of an issue in this collection: a value below `low` or above `high` has it."""

    __tablename__ = "quality_limits"

    issue: Mapped[str] = mapped_column(primary_key=True)
    low: Mapped[float | None]
    high: Mapped[float | None]


class EmbeddingRow(Base):
    """An encoder's latent vector of an image. `change`: the transaction that wrote it."""

    __tablename__ = "embeddings"

    image_id: Mapped[int] = mapped_column(IdType, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    encoder: Mapped[str] = mapped_column(ForeignKey("encoders.fingerprint"), primary_key=True)
    mu: Mapped[bytes] = mapped_column(LargeBinary)
    log_variance: Mapped[bytes | None] = mapped_column(LargeBinary)
    reconstruction_error: Mapped[float | None]
    runtime: Mapped[str]
    change: Mapped[int] = mapped_column(BigInteger, index=True)


class RunRow(Base):
    """A run of a long command. `host`: where it runs."""

    __tablename__ = "runs"
    __table_args__ = (CheckConstraint("status IN ('running', 'finished', 'failed', 'interrupted')", name="status"),)

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    kind: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    status: Mapped[str]
    counts: Mapped[dict[str, Any]] = mapped_column(JSON)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    host: Mapped[str | None]


class FailureRow(Base):
    """A file that a run skipped."""

    __tablename__ = "failures"

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    run: Mapped[int] = mapped_column(IdType, ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    path: Mapped[str]
    reason: Mapped[str]


class SegmentRow(Base):
    """A published index. It covers every commit up to `change`. `details`: how it was built, and measurements."""

    __tablename__ = "segments"

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    encoder: Mapped[str] = mapped_column(ForeignKey("encoders.fingerprint"))
    file: Mapped[str]
    kind: Mapped[str]
    rows: Mapped[int] = mapped_column(BigInteger)
    change: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    created_at: Mapped[datetime]
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict, server_default="{}")


class DeletionRow(Base):
    """A deleted image that may still be in the current segment."""

    __tablename__ = "deletions"

    image_id: Mapped[int] = mapped_column(IdType, primary_key=True, autoincrement=False)
    change: Mapped[int] = mapped_column(BigInteger, index=True)


class DuplicateRow(Base):
    """Two images that the last `simile dedup` found to be copies or similar; first < second."""

    __tablename__ = "duplicates"
    __table_args__ = (
        CheckConstraint("tier IN ('pixels', 'near', 'series', 'similar')", name="tier"),
        CheckConstraint("first < second", name="ordered"),
    )

    first: Mapped[int] = mapped_column(IdType, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    second: Mapped[int] = mapped_column(
        IdType, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    tier: Mapped[str] = mapped_column(index=True)
    distance: Mapped[float]
    agreement: Mapped[float | None]
    reason: Mapped[str]
    run: Mapped[int] = mapped_column(IdType, ForeignKey("runs.id"))


class DecisionRow(Base):
    """A person's decision on two images, by their SHA-256, so that it outlives their rows. first < second."""

    __tablename__ = "decisions"
    __table_args__ = (CheckConstraint("first_sha256 < second_sha256", name="ordered"),)

    first_sha256: Mapped[str] = mapped_column(primary_key=True)
    second_sha256: Mapped[str] = mapped_column(primary_key=True)
    same: Mapped[bool]
    keep_sha256: Mapped[str | None]
    decided_at: Mapped[datetime]


class JobRow(Base):
    """An indexing job that was started over HTTP. `version` counts its updates; `run`: its row in runs.

    `host`: where it runs; `alive_at`: when its process was seen last, by the clock of the database.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'failed', 'cancelled', 'interrupted')", name="status"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    version: Mapped[int] = mapped_column(default=1)
    root: Mapped[str]
    prune: Mapped[bool]
    status: Mapped[str] = mapped_column(default="running")
    cancelling: Mapped[bool] = mapped_column(default=False)
    stage: Mapped[str]
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int | None] = mapped_column(BigInteger)
    per_second: Mapped[float | None]
    seconds_left: Mapped[float | None]
    failed: Mapped[int] = mapped_column(BigInteger, default=0)
    message: Mapped[str | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    run: Mapped[int | None] = mapped_column(IdType, ForeignKey("runs.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    host: Mapped[str | None]
    alive_at: Mapped[datetime | None]


class KeyRow(Base):
    """A key of the service. `prefix`: its public part; `rate`: requests a minute; `quota`: bytes that it may upload.

    Null: the service's setting.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("scope IN ('search', 'write', 'admin')", name="scope"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(IdType, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[str]
    scope: Mapped[str]
    rate: Mapped[int | None]
    quota: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class UploadRow(Base):
    """A file that was added over HTTP, with a key; null: without one. Its size counts towards a quota."""

    __tablename__ = "uploads"

    location_id: Mapped[int] = mapped_column(IdType, ForeignKey("locations.id", ondelete="CASCADE"), primary_key=True)
    key_id: Mapped[int | None] = mapped_column(IdType, ForeignKey("api_keys.id", ondelete="CASCADE"))
    size: Mapped[int] = mapped_column(BigInteger)


class SessionRow(Base):
    """A browser session that was opened with a key; `sha256` of its cookie."""

    __tablename__ = "sessions"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[int] = mapped_column(IdType, ForeignKey("api_keys.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class StateRow(Base):
    """The single row with the catalogue's state; the first migration inserts it."""

    __tablename__ = "state"
    __table_args__ = (CheckConstraint("id = 1", name="single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    changes: Mapped[int] = mapped_column(BigInteger)
    active_encoder: Mapped[str | None] = mapped_column(ForeignKey("encoders.fingerprint"))
    segment_id: Mapped[int | None] = mapped_column(IdType, ForeignKey("segments.id"))
