"""The catalogue: all verbs on one object."""

from __future__ import annotations

from simile.store.catalogue.duplicates import Duplicates
from simile.store.catalogue.embeddings import Embeddings
from simile.store.catalogue.encoders import Encoders
from simile.store.catalogue.files import Files
from simile.store.catalogue.images import Images
from simile.store.catalogue.jobs import Jobs
from simile.store.catalogue.keys import Keys
from simile.store.catalogue.metadata import Metadata
from simile.store.catalogue.runs import Runs
from simile.store.index.segments import Segments


class Catalogue(Files, Metadata, Images, Embeddings, Encoders, Runs, Segments, Duplicates, Jobs, Keys):
    """What a home knows: `with Catalogue(home) as catalogue: …`. Safe to share between threads.

    The schema must be current: a writer calls simile.store.database.schema.upgrade(home) first, a reader simile.store.database.schema.check(home).
    Every verb may raise HomeNotWritable (no space, no permission) or HomeBusy (another writer took too long).
    """
