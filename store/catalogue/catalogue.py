"""The catalogue: one repository for each kind of row, on one database."""

from __future__ import annotations

from simile.store.catalogue.duplicates import DuplicateRepository
from simile.store.catalogue.embeddings import EmbeddingRepository
from simile.store.catalogue.encoders import EncoderRepository
from simile.store.catalogue.files import FileRepository
from simile.store.catalogue.images import ImageRepository
from simile.store.catalogue.keys import KeyRepository
from simile.store.catalogue.metadata import MetadataRepository, PhotoMetadataRepository
from simile.store.catalogue.runs import JobRepository, RunRepository
from simile.store.catalogue.segments import SegmentRepository
from simile.store.database.transactions import JOB_REPEAT_SECONDS, Database
from simile.store.home import Home
from simile.store.quality.repository import QualityRepository


class Catalogue(Database):
    """The catalogue of a home: `with Catalogue(home) as catalogue: …`. Threads may share it.

    The schema must be current: a writer first calls `upgrade_schema(home)` of store/database/schema.py, a reader
    `check_schema(home)`. Every method of a repository may raise HomeNotWritable (no space, no permission) or HomeBusy
    (another writer took too long); with PostgreSQL DatabaseUnavailable, when the database is lost for longer than
    `repeat_seconds`.
    """

    def __init__(self, home: Home, repeat_seconds: float = JOB_REPEAT_SECONDS) -> None:
        super().__init__(home, repeat_seconds)
        self.images = ImageRepository(self)
        self.files = FileRepository(self)
        self.metadata = MetadataRepository(self)
        self.photo_metadata = PhotoMetadataRepository(self)
        self.quality = QualityRepository(self)
        self.embeddings = EmbeddingRepository(self)
        self.encoders = EncoderRepository(self)
        self.segments = SegmentRepository(self)
        self.runs = RunRepository(self)
        self.duplicates = DuplicateRepository(self)
        self.jobs = JobRepository(self)
        self.keys = KeyRepository(self)
