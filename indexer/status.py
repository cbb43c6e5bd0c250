"""What a home holds, whether it is whole, and making its index again."""

from __future__ import annotations

from typing import Any

from core.errors import CheckpointDamaged, NoSuchEncoder
from core.settings import Settings
from models.checkpoints import load
from store import schema
from store.catalogue import Catalogue
from store.home import Home
from store.index import Index
from store.verify import Problem, leftovers, verify

RUNS_SHOWN = 5


def read_status(settings: Settings, *, upgrade: bool = False) -> dict[str, Any]:
    """Counts, the encoder in use, the segment and the latest runs with their failures, fit for JSON."""
    home = Home(settings.home, settings.database_url)
    if upgrade and schema.revision(home) is not None:
        schema.upgrade(home)
    schema.check(home)
    with Catalogue(home) as catalogue:
        active, state = catalogue.active_encoder(), catalogue.state()
        segment = catalogue.segment(state.segment_id) if state.segment_id is not None else None
        runs = [
            {**vars(run), "failures": [vars(failure) for failure in catalogue.failures(run.id)]}
            for run in catalogue.runs(RUNS_SHOWN)
        ]
        return {
            "home": str(home.root),
            "images": catalogue.count_images(),
            "encoder": vars(active) if active else None,
            "segment": vars(segment) if segment else None,
            "pending": Index(catalogue).pending() if active else 0,
            "runs": runs,
        }


def verify_home(settings: Settings) -> list[Problem]:
    """Everything that is wrong with a home; empty when nothing is."""
    home = Home(settings.home, settings.database_url)
    schema.check(home)
    problems = verify(home)
    with Catalogue(home) as catalogue:
        for encoder in catalogue.encoders():
            folder = home.encoders / encoder.fingerprint
            if not folder.is_dir():  # among the problems already
                continue
            try:
                load(folder)
            except (CheckpointDamaged, NoSuchEncoder) as error:
                problems.append(Problem("encoder", str(error), ""))
    return problems


def home_leftovers(settings: Settings) -> list[Problem]:
    """Files in the home that nothing points to: space to win back, nothing wrong."""
    return leftovers(Home(settings.home, settings.database_url))


def rebuild_index(settings: Settings) -> int:
    """A new segment from the rows alone; gives how many vectors it holds."""
    home = Home(settings.home, settings.database_url)
    if schema.revision(home) is None:
        schema.check(home)
    with home.lock("simile rebuild"):
        schema.upgrade(home)
        with Catalogue(home) as catalogue:
            vectors = Index(catalogue)
            vectors.rebuild()
            return len(vectors)
