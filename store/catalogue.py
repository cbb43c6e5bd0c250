"""The catalogue: all verbs on one object."""

from __future__ import annotations

from store.duplicates import Duplicates
from store.embeddings import Embeddings
from store.encoders import Encoders
from store.files import Files
from store.images import Images
from store.jobs import Jobs
from store.keys import Keys
from store.metadata import Metadata
from store.runs import Runs
from store.segments import Segments


class Catalogue(Files, Metadata, Images, Embeddings, Encoders, Runs, Segments, Duplicates, Jobs, Keys):
    """What a home knows: `with Catalogue(home) as catalogue: …`. Safe to share between threads.

    The schema must be current: a writer calls store.schema.upgrade(home) first, a reader store.schema.check(home).
    Every verb may raise HomeNotWritable (no space, no permission) or HomeBusy (another writer took too long).
    """
