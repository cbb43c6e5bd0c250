"""Embed files on the nodes of a Ray cluster (`simile index --ray`).

    this process --blocks of tasks--> actors: read, decode, encode, commit --image ids and failures--> this process

Each actor runs the `FileEmbedder` that a run without Ray has in its own process, with decoders of its own; images never
travel over the network. Actors have no state: if one is lost, its blocks are given to others. What it had committed is
found by its content, so nothing is stored twice.

Actors are used directly, without Ray Data: its input would be a list of all tasks in memory, while the plan is a file
that is read block by block; and the blocks of a lost actor go to the others at once.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from simile.core.errors import BadSetting, SimileError, WorkersFailed
from simile.core.logs import configure_logging
from simile.core.records import Failure
from simile.core.settings import Settings
from simile.images.formats import Limits
from simile.images.loading.worker_pool import WorkerPool
from simile.images.metadata.reader import MetadataReader
from simile.images.sources.archives import is_compressed_tar, split_member_path
from simile.images.sources.sources import is_path_missing
from simile.indexer.pipeline.file_embedder import EmbeddedBatch, FileEmbedder, StoredFile
from simile.indexer.pipeline.plan import IndexTask, Spool
from simile.store.catalogue.catalogue import Catalogue
from simile.store.database import schema
from simile.store.home import Home

log = logging.getLogger(__name__)

AUTO_ADDRESS = "auto"
BLOCKS_PER_ACTOR = 2  # one that is encoded and stored while the next one is decoded
ACTOR_THREADS = BLOCKS_PER_ACTOR + 1  # and one for `stop`
MAX_STARTS = 5  # actors in a row that may be lost with the same block, or before they are ready
OBJECT_STORE_BYTES = 80 << 20  # about the least that Ray takes: nothing large is put there
CONNECT_SECONDS = 10
POLL_SECONDS = 0.5  # how soon Ctrl-C is noticed
NODES_SECONDS = 5.0  # how often to ask for new nodes
WAITING_NOTE_SECONDS = 30.0


def check_ray(address: str) -> None:
    """Raise BadSetting if Ray is not installed, or nothing answers at the address."""
    try:
        _import_ray()
    except ImportError as error:
        raise BadSetting(
            f"--ray needs {error.name}, which is not installed. Run `pip install 'simile[ray]'` here and on all nodes "
            "of the cluster, or leave --ray out."
        ) from None
    if address == AUTO_ADDRESS:
        address = os.environ.get("RAY_ADDRESS", "")
    host, is_complete, port = address.rpartition(":")
    if is_complete:  # Ray itself would try for a quarter of an hour
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise _make_address_error(address, error) from error


def _make_address_error(address: str, error: Exception) -> BadSetting:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    return BadSetting(
        f"Ray at {address or 'this machine'} can't be used: {reason}. Run the command on a node of the cluster "
        "(`ray start`), and check the address, HOST:PORT of its head."
    )


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray reports to its makers
    # Or Ray prints to stdout that a node was lost, where the summary belongs. It reads this when it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    import ray  # takes half a second, and only runs with --ray need it  # noqa: PLC0415

    return ray


class BlockResult(NamedTuple):
    """What an actor returns for a block; or the error that ends the run."""

    files: list[StoredFile | Failure]  # of the block's tasks, in order; fewer after `stop`
    missing_paths: list[str]  # of failures because the file is not there
    error: str | None = None


class EmbeddingActor:
    """Runs in a process of its own on any node."""

    def __init__(self, settings: Settings, fingerprint: str) -> None:
        """Only take the arguments: an error here would end the actor without its message."""
        self._settings, self._fingerprint = settings, fingerprint
        self._resources = ExitStack()
        self._embedder: FileEmbedder | None = None

    def start(self) -> BlockResult:
        """Open the catalogue and load the encoder."""
        try:
            self._embedder = self._open_embedder()
        except SimileError as error:
            return self._refuse(error)
        return BlockResult([], [])

    def _open_embedder(self) -> FileEmbedder:
        from simile.search.encoder_registry import load_encoder  # noqa: PLC0415  # imports torch

        configure_logging()
        settings = self._settings
        home = Home.from_settings(settings)
        schema.check_schema(home)
        workers = WorkerPool(get_actor_cores(settings), settings.decode_seconds, settings.max_pixels)
        return FileEmbedder(
            catalogue=self._resources.enter_context(Catalogue(home)),
            encoder=load_encoder(home, self._fingerprint, settings.device, settings.runtime),
            workers=self._resources.enter_context(workers),
            limits=Limits.from_settings(settings),
            batch_size=settings.batch_size,
            metadata_reader=MetadataReader(with_gps=settings.gps),
        )

    def embed(self, tasks: list[IndexTask]) -> BlockResult:
        """Embed and commit the files of a block."""
        assert self._embedder is not None
        try:
            files = [result for batch in self._embedder.embed(tasks) for _, result in batch]
            failed_paths = (result.path for result in files if isinstance(result, Failure))
            return BlockResult(files, [path for path in failed_paths if is_path_missing(path)])
        except SimileError as error:
            return self._refuse(error)

    def stop(self) -> None:
        """Make `embed` return early."""
        if self._embedder is not None:
            self._embedder.stop()

    @staticmethod
    def _refuse(error: SimileError) -> BlockResult:
        return BlockResult([], [], f"On {socket.gethostname()}, in an actor of Ray: {type(error).__name__}: {error}")


def get_actor_cores(settings: Settings) -> int:
    """Return how many cores an actor has: it decodes in so many processes."""
    return max(1, settings.workers)


@dataclass
class _Block:
    """Tasks that one actor does."""

    tasks: list[IndexTask]
    start_count: int = 0  # actors that were lost with it


@dataclass(eq=False)
class _Actor:
    """An actor, from here."""

    handle: Any
    is_ready: bool = False
    block_count: int = 0  # that it is working on


class RayEmbedder:
    """Embeds files in as many actors as the cluster has cores for: `with RayEmbedder(…) as embedder: …`.

    The actors commit to the catalogue. If it is an SQLite file, they all run on this host.
    """

    def __init__(self, catalogue: Catalogue, settings: Settings, fingerprint: str, address: str) -> None:
        """Take what the actors need; `address` is that of the cluster, or AUTO_ADDRESS."""
        self._settings = settings.model_copy(update={"home": settings.home.absolute()})
        self._is_shared = catalogue.is_server
        self._fingerprint, self._address = fingerprint, address
        self._actors: list[_Actor] = []
        self._calls: dict[Any, tuple[_Actor, _Block | None]] = {}  # by the reference to the result; None for `start`
        self._repeated: deque[_Block] = deque()
        self._stopped = False
        self._lost_starts = 0  # actors in a row that were lost before they were ready
        self._max_actors, self._next_nodes_at = 0, 0.0

    def __enter__(self) -> Self:
        self._ray = _import_ray()
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            self._connect()
        except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            address = os.environ.get("RAY_ADDRESS", "") if self._address == AUTO_ADDRESS else self._address
            raise _make_address_error(address, error) from error
        return self

    def _connect(self) -> None:
        options = {"log_to_driver": False, "configure_logging": False}
        try:
            self._ray.init(address=self._address, **options)
        except ConnectionError:
            if self._address != AUTO_ADDRESS or "RAY_ADDRESS" in os.environ:
                raise
            small = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            self._ray.init(address="local", **small, **options)

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._ray.shutdown()

    def stop(self) -> None:
        """Make `embed` end when the actors have stored what they have decoded."""
        self._stopped = True  # no call of Ray: this is a signal handler

    def embed(self, tasks: Spool[IndexTask]) -> Iterator[EmbeddedBatch]:
        """Yield each task with its result: block by block, as the actors finish them."""
        if not len(tasks):
            return
        blocks = _split_blocks(tasks, self._settings.batch_size)
        block_count = math.ceil(len(tasks) / self._settings.batch_size)
        note_at = time.monotonic() + WAITING_NOTE_SECONDS
        while not self._stopped:
            self._start_actors(block_count)
            self._give_blocks(blocks)
            if not self._are_working():
                return
            yield from self._finish_calls()
            if note_at < time.monotonic() and not any(actor.is_ready for actor in self._actors):
                note_at = math.inf
                log.warning("waiting for Ray to start an actor: perhaps all cores of the cluster are in use")
        for actor in self._actors:
            actor.handle.stop.remote()
        while self._are_working():
            yield from self._finish_calls()

    def _start_actors(self, block_count: int) -> None:
        """Start actors on all cores, also of nodes that are new. Raises BadSetting."""
        if time.monotonic() >= self._next_nodes_at:
            self._next_nodes_at = time.monotonic() + NODES_SECONDS
            self._max_actors = self._count_cores() // get_actor_cores(self._settings)
            if not self._max_actors and not self._is_shared:
                raise BadSetting(
                    "The catalogue is an SQLite file, so that only actors on this host can write to it, and Ray has no "
                    "free core here. Start Ray with more (`ray start --num-cpus`), or use PostgreSQL "
                    "(SIMILE_DATABASE_URL)."
                )
        # At least one, because a cluster without cores may add nodes when they are needed.
        while len(self._actors) < min(max(1, self._max_actors), block_count):
            handle = self._ray.remote(EmbeddingActor).options(**self._get_actor_options())
            actor = _Actor(handle.remote(self._settings, self._fingerprint))
            self._actors.append(actor)
            self._calls[actor.handle.start.remote()] = (actor, None)

    def _count_cores(self) -> int:
        here = self._ray.get_runtime_context().get_node_id()
        nodes = [node for node in self._ray.nodes() if node["Alive"] and (self._is_shared or node["NodeID"] == here)]
        return int(sum(node["Resources"].get("CPU", 0) for node in nodes))

    def _get_actor_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_cpus": get_actor_cores(self._settings),
            "num_gpus": 1 if self._settings.device.startswith("cuda") else 0,
            "max_concurrency": ACTOR_THREADS,
            "max_restarts": 0,  # a new actor is started instead
        }
        if not self._is_shared:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

            here = self._ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
        return options

    def _give_blocks(self, blocks: Iterator[_Block]) -> None:
        """Give blocks to all actors that are ready for one; first those of actors that were lost."""
        for count in range(BLOCKS_PER_ACTOR):
            for actor in self._actors:
                if actor.is_ready and actor.block_count == count:
                    block = self._repeated.popleft() if self._repeated else next(blocks, None)
                    if block is None:
                        return
                    actor.block_count += 1
                    self._calls[actor.handle.embed.remote(block.tasks)] = (actor, block)

    def _are_working(self) -> bool:
        """Return whether an actor has a block, or will get one when it is ready."""
        is_any_ready = any(actor.is_ready for actor in self._actors)
        return any(block for _, block in self._calls.values()) or (not self._stopped and not is_any_ready)

    def _finish_calls(self) -> Iterator[EmbeddedBatch]:
        """Wait a moment for calls, and yield the results of those that are done. Raises WorkersFailed."""
        errors = self._ray.exceptions
        for call in self._ray.wait(list(self._calls), timeout=POLL_SECONDS)[0]:
            if call not in self._calls:  # its actor was lost with an earlier call
                continue
            actor, block = self._calls.pop(call)
            try:
                result: BlockResult = self._ray.get(call)
            except (errors.RayActorError, errors.ObjectLostError) as error:
                self._forget(actor, block, error)
                continue
            if result.error is not None:
                raise WorkersFailed(result.error)
            for path in result.missing_paths:
                if not is_path_missing(path):
                    raise WorkersFailed(
                        f"{path} is on this host, but not on all nodes of Ray. Make its folder available under the "
                        "same path on each node, or index a folder of a bucket (s3://…)."
                    )
            if block is None:
                actor.is_ready, self._lost_starts = True, 0
                continue
            actor.block_count -= 1
            yield list(zip(block.tasks, result.files, strict=not self._stopped))

    def _forget(self, actor: _Actor, block: _Block | None, error: Exception) -> None:
        """Forget an actor that was lost; its blocks are repeated. Raises WorkersFailed if that is in vain."""
        blocks = [block, *(other for owner, other in self._calls.values() if owner is actor)]
        self._calls = {call: value for call, value in self._calls.items() if value[0] is not actor}
        self._actors.remove(actor)
        self._ray.kill(actor.handle)  # it may be alive, and only out of reach
        self._lost_starts += not actor.is_ready
        if getattr(error, "actor_init_failed", False) or self._lost_starts == MAX_STARTS:
            raise WorkersFailed(
                f"Actors of Ray end before they begin to work: {error} All nodes need the same version of simile, with "
                "`pip install 'simile[ray]'`, and enough memory."
            )
        for lost in filter(None, blocks):
            lost.start_count += 1
            if lost.start_count == MAX_STARTS:
                raise WorkersFailed(
                    f"{MAX_STARTS} actors of Ray ended while they embedded {lost.tasks[0].file.path} and the "
                    f"{len(lost.tasks) - 1:,} files after it, the last one with: {error} Give the nodes more memory, "
                    "or index these files without --ray."
                )
            self._repeated.append(lost)
        log.warning("an actor of Ray was lost; its files are given to another one")


def _split_blocks(tasks: Iterable[IndexTask], size: int) -> Iterator[_Block]:
    """Yield the tasks in blocks of at most `size`; but the files of a compressed tar stay together.

    They can only be read from front to back, so each further block would inflate the archive once more.
    """
    block: list[IndexTask] = []
    archive: str | None = None  # of the tasks in the block
    for task in tasks:
        if len(block) >= size and (archive is None or not task.file.path.startswith(f"{archive}/")):
            yield _Block(block)
            block = []
        if not block or archive is None or not task.file.path.startswith(f"{archive}/"):
            archive = _find_compressed_tar(task.file.path)
        block.append(task)
    if block:
        yield _Block(block)


def _find_compressed_tar(path: str) -> str | None:
    member = split_member_path(path)
    try:
        return member[0] if member is not None and is_compressed_tar(member[0]) else None
    except OSError:  # it was deleted a moment ago; the actor will say so
        return None
