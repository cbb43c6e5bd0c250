"""Many questions answered together: one pass through the network, one call of the index, one look into the rows.

questions --see--> queries (mu) --search--> ids, distances --complete--> answers

A question that can't be answered becomes its error, and costs the others nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from simile.core.errors import BadSetting, EncoderMismatch, NoSuchImage, NotFinite, NoVariance, SimileError
from simile.core.filter_parser import as_said
from simile.core.records import Filter, FloatArray, Hit
from simile.search.calibration.calibration import Gauge
from simile.search.posterior import among_posteriors, mean_sigma, nearest_posteriors, spread_from, spreads
from simile.search.queries import Answer, Asked, AskedPicture, Certainty, Part, Query, Question
from simile.store.catalogue.catalogue import Catalogue
from simile.store.catalogue.records import HitFacts
from simile.store.index.flat import Distances, Ids, Neighbours
from simile.store.index.index import Index
from simile.store.index.metric import to_indexed
from simile.store.index.snapshot import Snapshot

Observe = Callable[[str, float], None]  # (stage, seconds)
Seen = Query | SimileError
# Pictures, as the encoder with this fingerprint sees them; of which of them the reconstruction error is wanted.
Look = Callable[[Sequence[AskedPicture], str, Sequence[bool]], list[Seen]]
Shape = tuple[Filter | None, float | None, int]  # questions of one shape are one call of the index

ROWS = 4096  # hits whose vectors are in memory together


@dataclass
class _Case:
    """A question on its way. `error`: what it ended with. ids, distances: (n,) of its hits."""

    question: Question
    query: Query | None = None
    error: SimileError | None = None
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    distances: Distances = field(default_factory=lambda: np.empty(0))
    nearest: float | None = None  # distance of the nearest image, be it a hit or not

    @property
    def asked(self) -> Asked:
        return self.question.asked


@dataclass(frozen=True)
class Answering:
    """What answering needs. `gauge`: what is known to be usual in these vectors, at once, or None."""

    catalogue: Catalogue
    index: Index
    look: Look
    gauge: Callable[[Snapshot], Gauge | None]
    observe: Observe

    def answer(self, questions: Sequence[Question]) -> list[Answer | SimileError]:
        """One answer for each question, in order, or why there is none."""
        cases = [_Case(question) for question in questions]
        if not cases:
            return []
        try:
            snapshot = self.index.current()
            with self._measured("encode"):
                self._see(cases, snapshot)
            with self._measured("search"):
                self._search(cases, snapshot)
            with self._measured("rows"):
                return self._complete(cases, snapshot)
        except SimileError as error:  # of the home, not of a question
            return [case.error or error for case in cases]

    def _see(self, cases: Sequence[_Case], snapshot: Snapshot) -> None:
        """Gives each case its query. Pictures and ids that several ask with are looked at once."""
        parts = list(chain.from_iterable(case.question.parts for case in cases))
        seen = self._looked(cases, snapshot)
        known = self._known({part for part in parts if isinstance(part, int)}, snapshot)
        for case in cases:
            try:
                case.query = _query(case.question, lambda part: _seen(part, seen, known, snapshot))
            except SimileError as error:
                case.error = error

    def _looked(self, cases: Sequence[_Case], snapshot: Snapshot) -> dict[int, Seen]:
        """Pictures as queries, by their `id`."""
        pictures: dict[int, AskedPicture] = {}
        errors: dict[int, bool] = {}
        for case in cases:
            for part in case.question.parts:
                if isinstance(part, AskedPicture):
                    pictures[id(part)] = part
                    errors[id(part)] = errors.get(id(part), False) or (case.asked.error and case.question.picture)
        if not pictures:
            return {}
        looked = self.look(list(pictures.values()), snapshot.encoder.fingerprint, list(errors.values()))
        return dict(zip(pictures, looked, strict=True))

    def _known(self, ids: set[int], snapshot: Snapshot) -> dict[int, Seen]:
        """Indexed images as queries. Needs no network."""
        if not ids:
            return {}
        fingerprint = snapshot.encoder.fingerprint
        records, embeddings = self.catalogue.images(sorted(ids)), self.catalogue.embeddings(ids, fingerprint)
        found: dict[int, Seen] = {}
        for image_id in ids:
            record, embedding = records.get(image_id), embeddings.get(image_id)
            if record is None:
                found[image_id] = NoSuchImage(image_id)
            elif embedding is None:
                found[image_id] = EncoderMismatch(
                    f"Image {image_id} has no vector by encoder {fingerprint}. Run `simile index` on it."
                )
            else:
                found[image_id] = Query(
                    mu=embedding.mu,
                    sigma=None if embedding.log_variance is None else np.exp(0.5 * embedding.log_variance),
                    name=Path(record.paths[0]).name if record.paths else None,
                    image_id=image_id,
                    width=record.width,
                    height=record.height,
                    format=record.format,
                    reconstruction_error=record.reconstruction_error,
                )
        return found

    def _search(self, cases: Sequence[_Case], snapshot: Snapshot) -> None:
        shapes: dict[Shape, list[_Case]] = {}
        wanted = [case for case in cases if case.query is not None and case.asked.limit != 0]
        for case in wanted:
            if case.asked.posterior:
                self._search_posterior(case, snapshot)
            else:
                shapes.setdefault(_shape(case.question, len(snapshot)), []).append(case)
        for shape, alike in shapes.items():
            try:
                found = self._found(shape, _vectors(alike, snapshot), snapshot)
                for case, neighbours in zip(alike, found, strict=True):
                    _keep(case, neighbours)
            except SimileError as error:
                for case in alike:
                    case.error, case.query = error, None
        self._find_nearest([case for case in wanted if case.query is not None and case.nearest is None], snapshot)

    def _found(self, shape: Shape, vectors: FloatArray, snapshot: Snapshot) -> list[Neighbours]:
        only, within, count = shape
        among = self.index.matching(only)
        if within is None:
            return snapshot.search(vectors, count, among)
        if not 0 <= within < np.inf:
            raise BadSetting(f"within can't be {within}. Give a distance: a number from 0 on.")
        return snapshot.range(vectors, within, among)

    def _search_posterior(self, case: _Case, snapshot: Snapshot) -> None:
        try:
            _keep(case, self._nearest_posteriors(case, snapshot))
            case.nearest = None  # what is usual is known of the means' distances alone
        except SimileError as error:
            case.error, case.query = error, None

    def _nearest_posteriors(self, case: _Case, snapshot: Snapshot) -> Neighbours:
        query, encoder = case.query, snapshot.encoder
        assert query is not None
        if not case.question.picture or isinstance(case.question.positives[0], np.ndarray):
            raise BadSetting("Only one picture or indexed image has a σ to compare: leave `posterior` out for others.")
        if query.sigma is None:
            raise NoVariance(
                f"Encoder {encoder.fingerprint} has no variance, so only means can be compared. Leave `posterior` out, "
                "or train another recipe: `simile train PHOTOS --recipe vae`."
            )
        only, within, count = _shape(case.question, len(snapshot))
        apart, vectors = spread_from(query.mu, query.sigma, self.catalogue, encoder), _vectors([case], snapshot)
        if within is not None:
            (found,) = self._found((only, within, 0), vectors, snapshot)
            return among_posteriors(*found, apart, within)
        among = self.index.matching(only)
        return nearest_posteriors(count, lambda k: snapshot.search(vectors, k, among)[0], apart)

    def _find_nearest(self, cases: Sequence[_Case], snapshot: Snapshot) -> None:
        """The nearest of all images, for those whose hits don't begin with it."""
        lacking = [case for case in cases if case.question.picture]
        if lacking and self.gauge(snapshot) is not None:
            found = snapshot.search(_vectors(lacking, snapshot), 2)
            for case, (ids, distances) in zip(lacking, found, strict=True):
                others = distances[~np.isin(ids, list(case.question.ids))]
                case.nearest = float(others[0]) if len(others) else None

    def _complete(self, cases: Sequence[_Case], snapshot: Snapshot) -> list[Answer | SimileError]:
        gauge = self.gauge(snapshot)
        facts = self.catalogue.hit_facts(_together(cases))
        described = [case for case in cases if case.asked.metadata]
        metadata = self.catalogue.metadata_of_images(_together(described)) if described else {}
        answers: list[Answer | SimileError] = []
        for case, spread in zip(cases, _spreads(cases, snapshot), strict=True):
            if case.query is None:
                assert case.error is not None
                answers.append(case.error)
                continue
            said = metadata if case.asked.metadata else None
            of_hits = None if case.asked.posterior else gauge
            hits = list(_hits(case, facts, said, spread, of_hits))
            certainty = _certainty(case.question, case.query, case.nearest, snapshot, gauge)
            answers.append(Answer(case.query, hits, certainty, of_hits is not None, snapshot.encoder.fingerprint))
        return answers

    @contextmanager
    def _measured(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:  # failures take time too
            self.observe(stage, time.perf_counter() - started)


def _seen(part: Part, seen: dict[int, Seen], known: dict[int, Seen], snapshot: Snapshot) -> Query:
    if isinstance(part, AskedPicture | int):
        found = known[part] if isinstance(part, int) else seen[id(part)]
        if isinstance(found, SimileError):
            raise found
        return found
    active, mu = snapshot.encoder, np.asarray(part, dtype=np.float32)
    if mu.shape != (active.dimensions,):
        raise EncoderMismatch(
            f"A vector of {mu.size} numbers can't be compared: encoder {active.fingerprint} has {active.dimensions}."
        )
    if not np.isfinite(mu).all():
        raise NotFinite("The vector holds NaN or infinity, or a number beyond float32. Send finite numbers.")
    return Query(mu)


def _query(question: Question, seen: Callable[[Part], Query]) -> Query:
    """One query of all parts of a question: the mean of the positives less that of the negatives."""
    positives, negatives = [[seen(part) for part in side] for side in (question.positives, question.negatives)]
    if question.picture:
        return positives[0]
    mu, variance = np.zeros_like(positives[0].mu), np.zeros_like(positives[0].mu)
    is_uncertain = True
    for side, sign in ((positives, 1), (negatives, -1)):
        for query in side:
            mu += sign * query.mu / len(side)
            is_uncertain &= query.sigma is not None
            variance += 0 if query.sigma is None else np.square(query.sigma / len(side))
    if not np.isfinite(mu).all():
        raise NotFinite("The mean of the vectors is beyond float32. Send smaller numbers.")
    sigma = np.sqrt(variance) if is_uncertain else None
    return Query(mu, sigma, positives=tuple(positives), negatives=tuple(negatives))


def _shape(question: Question, images: int) -> Shape:
    asked = question.asked
    if asked.within is not None:
        return asked.only, asked.within, 0
    count = images if asked.limit is None else asked.limit + asked.offset + len(question.ids)
    return asked.only, None, count


def _vectors(cases: Sequence[_Case], snapshot: Snapshot) -> FloatArray:
    mus = np.stack([case.query.mu for case in cases if case.query is not None])
    return to_indexed(mus, snapshot.encoder.index_dims, snapshot.encoder.metric)


def _keep(case: _Case, neighbours: Neighbours) -> None:
    """Of what was found, what was asked for."""
    ids, distances = neighbours
    if case.question.ids:
        others = ~np.isin(ids, list(case.question.ids))
        ids, distances = ids[others], distances[others]
    asked = case.asked
    if asked.only is None and len(ids):
        case.nearest = float(distances[0])
    end = None if asked.limit is None else asked.offset + asked.limit
    case.ids, case.distances = ids[asked.offset : end], distances[asked.offset : end]


def _together(cases: Iterable[_Case]) -> list[int]:
    """The ids of all their hits, ascending, each once."""
    found: list[int] = np.unique(np.concatenate([np.empty(0, np.int64), *(case.ids for case in cases)])).tolist()
    return found


def _spreads(cases: Sequence[_Case], snapshot: Snapshot) -> list[list[float] | None]:
    """For each case how uncertain the distance of each hit is, in the order of the hits; None without a σ."""
    found: list[list[float] | None] = [None] * len(cases)
    known = [
        (at, case.query.mu, case.query.sigma)
        for at, case in enumerate(cases)
        if case.query is not None and case.query.sigma is not None and not case.asked.posterior
    ]
    if not known:
        return found
    places, mu, sigma = (list(column) for column in zip(*known, strict=True))
    counts = [len(cases[at].ids) for at in places]
    ids, rows = np.concatenate([cases[at].ids for at in places]), np.repeat(np.arange(len(places)), counts)
    mus, sigmas = np.stack(mu), np.stack(sigma)  # (cases, d)
    spread = np.empty(len(ids))
    for start in range(0, len(ids), ROWS):
        part = slice(start, start + ROWS)
        here, vectors = snapshot.vectors(np.unique(ids[part]))
        nearest = vectors[np.searchsorted(here, ids[part])]
        spread[part] = spreads(mus[rows[part]], sigmas[rows[part]], nearest, snapshot.encoder)
    for at, values in zip(places, np.split(spread, np.cumsum(counts)[:-1]), strict=True):
        found[at] = values.tolist()
    return found


def _hits(
    case: _Case,
    facts: dict[int, HitFacts],
    metadata: dict[int, dict[str, str]] | None,
    spread: list[float] | None,
    gauge: Gauge | None,
) -> Iterator[Hit]:
    """The hits whose rows are still there. `path`: the first file, of those in the folder that was asked for."""
    only, distances = case.asked.only, case.distances.tolist()
    under = f"{only.under.rstrip('/')}/" if only is not None and only.under else None
    expected = None if gauge is None else gauge.expect(case.distances).tolist()
    for at, image_id in enumerate(case.ids.tolist()):
        known = facts.get(image_id)
        if known is None:
            continue
        path = known.paths[0] if known.paths else ""
        if under is not None:
            path = next((one for one in known.paths if f"{one}/".startswith(under)), path)
        yield Hit(
            image_id,
            distances[at],
            path,
            known.width,
            known.height,
            known.format,
            known.paths,
            None if expected is None else expected[at],
            None if spread is None else spread[at],
            None if metadata is None else as_said(metadata.get(image_id, {})),
        )


def _certainty(
    question: Question, query: Query, nearest: float | None, snapshot: Snapshot, gauge: Gauge | None
) -> Certainty:
    sigma = mean_sigma(query.sigma, snapshot.encoder)
    if gauge is None or not question.picture:  # what lies between several pictures is no picture
        return Certainty(sigma)
    return gauge.judge(query.reconstruction_error, nearest, sigma)
