"""Has the shards of a set written by the workers of a Ray cluster: a task for each shard.

A task writes its shard as a rank does, under a temporary name that it locks, and may be run again
at any time. Ray runs it again when its worker or its node has died. What goes to the workers is the
set's contents, once; what comes back is how many samples have been written.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cgn_augment.checks import require_count, require_package
from cgn_augment.errors import ArgumentError, MissingPackageError, UsageError
from cgn_augment.files import first_line
from cgn_augment.shards.manifest import look_up
from cgn_augment.shards.store import Store
from cgn_augment.shards.writer import Contents, write_shards

logger = logging.getLogger(__name__)

_PORTIONS = 20
"""How often a task says how far it is: by counts alone, so that a second run says the same."""

_LEAST_AHEAD = 16
_SECONDS_TO_STOP = 10.0
_SECONDS_TO_CONNECT = 10.0
_ADDRESS = "RAY_ADDRESS"
_GO_ON = "complete shards stay, and the same command with --resume goes on"


@dataclass(frozen=True)
class RayEngine:
    """Writes shards on the Ray cluster of this machine or of RAY_ADDRESS, or else on its own cores.

    Every node needs the same versions of this package and of those below it, and sees images,
    masks and the set under the same paths, or by URLs. The bytes are those of any other engine.

    Attributes:
        cpus: that Ray counts a task with.
        gpus: that a task takes, up to 1; of a half, two tasks share one.
        retries: how often a shard is begun again when its worker or its node has died, or a file
            cannot be read or written.

    Raises:
        ArgumentError: a value that no task can have.

    Examples:
        >>> from cgn_augment.shards.on_ray import RayEngine
        >>> RayEngine(gpus=0.5).retries
        3
    """

    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.cpus < float("inf"):
            raise ArgumentError(f"cpus must be a number above 0, got {self.cpus}")
        if not 0 <= self.gpus <= 1:
            raise ArgumentError(
                f"gpus must be 0 to 1, got {self.gpus}: a task draws on one GPU, or on a part of it"
            )
        require_count("retries", self.retries, 0)

    def check(self, store: Store) -> None:
        """Raises if no worker can write to a store.

        Args:
            store: the place of the set.

        Raises:
            MissingPackageError: Ray is not installed.
            UsageError: nothing answers at RAY_ADDRESS, or the store lies in this process.
        """
        ray = _import_ray()
        if store.protocol == "memory":
            raise UsageError(f"{store.url} lies in this process, which no worker can write to")
        if not ray.is_initialized():
            _find_address()

    def __call__(
        self, store: Store, contents: Contents, shards: Sequence[int]
    ) -> Generator[int, None, None]:
        """Yields how many samples more are in the shards, as the workers write them.

        Raises:
            MissingPackageError: Ray is not installed, or this package is not on a worker.
            UsageError: there is no cluster, a worker has other versions or does not see the files,
                or it has died too often.
            CGNError: what a task raised, as it would have been raised here.
        """
        ray = _import_ray()
        if not shards:
            return
        with _connected(ray):
            self._warn_of_what_lacks(ray)
            seen = tuple(contents.local_files)
            work = _Work(store, contents, contents.versions, str(Path.cwd()), seen)
            yield from self._run(ray, work, iter(shards))

    def _run(
        self, ray: ModuleType, work: _Work, shards: Iterator[int]
    ) -> Generator[int, None, None]:
        task = ray.remote(_write).options(
            num_returns="streaming",
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_retries=self.retries,
            retry_exceptions=[OSError],
        )
        settings, shared = work.contents.settings, ray.put(work)
        under_way: dict[Any, int] = {}

        def hand_out() -> Iterator[int]:
            """Fills up what is under way; yields what another command has written meanwhile."""
            ahead = self._ahead(ray)
            while len(under_way) < ahead and (shard := next(shards, None)) is not None:
                written = look_up(work.store, settings, shard)
                if written is None:
                    under_way[task.remote([shared], shard)] = shard
                else:
                    yield written.num_samples

        try:
            yield from hand_out()
            while under_way:
                for counts in ray.wait(list(under_way))[0]:
                    num = _next_count(ray, counts, work, under_way[counts])
                    if num is not None:
                        yield num
                        continue
                    shard = under_way.pop(counts)
                    if look_up(work.store, settings, shard) is None:
                        raise UsageError(
                            f"a worker has written {_name(work, shard)}, and it is not at "
                            f"{work.store.url} here: write to a folder that every node has under "
                            "the same path, or to a URL"
                        )
                    yield from hand_out()
        finally:
            _stop(ray, list(under_way))
            work.store.remove_leftovers()

    def _ahead(self, ray: ModuleType) -> int:
        """Returns how many tasks are handed out: enough for a cluster that may grow."""
        have = ray.cluster_resources()
        room = have.get("GPU", 0) / self.gpus if self.gpus else have.get("CPU", 0) / self.cpus
        return max(_LEAST_AHEAD, 2 * int(room))

    def _warn_of_what_lacks(self, ray: ModuleType) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for name, wanted in {"CPU": self.cpus, "GPU": self.gpus}.items():
            if wanted > max((node.get(name, 0) for node in nodes), default=0):
                logger.warning(
                    "no node of the Ray cluster has %g %s: the tasks wait until one is there",
                    wanted,
                    name,
                )


@dataclass(frozen=True)
class _Work:
    """What a worker needs to write shards.

    Attributes:
        store: the place of the set.
        contents: what it holds.
        versions: of the libraries where the command was started.
        folder: where it was started.
        local_files: some that must be seen.
    """

    store: Store
    contents: Contents
    versions: dict[str, str]
    folder: str
    local_files: tuple[str, ...]

    def settle_here(self) -> None:
        """Goes to the folder, so that relative paths mean the same; refuses what would differ.

        Raises:
            UsageError: other versions, or files that are not seen from here.
        """
        node, own = platform.node(), self.contents.versions
        other = {
            name: f"{own.get(name)} there, {version} here"
            for name, version in self.versions.items()
            if own.get(name) != version
        }
        if other:
            raise UsageError(
                f"a worker on {node} has other versions, whose bytes may differ ({other}): install "
                "the same on every node"
            )
        with suppress(OSError):  # paths that are not relative do without it
            os.chdir(self.folder)
        lost = [name for name in self.local_files if not Path(name).is_file()]
        if lost:
            raise UsageError(
                f"a worker on {node} does not see {lost[0]}: put images and masks where every node "
                "has them under the same path, or give URLs"
            )


_received: dict[str, _Work] = {}
"""The work of this process by its reference: one process writes many shards of a set."""


def _write(shared: list[Any], shard: int) -> Iterator[int]:
    """Writes a shard, in a worker."""
    work, num = _receive(shared[0]), 0
    portion = (work.contents.count([shard]) or 0) // _PORTIONS or _PORTIONS
    with closing(write_shards(work.store, work.contents, [shard])) as written:
        for more in written:
            num += more
            if num >= portion:
                yield num
                num = 0
    if num:
        yield num


def _receive(reference: Any) -> _Work:
    import ray

    key = reference.hex()
    if key not in _received:
        work: _Work = ray.get(reference)
        work.settle_here()
        _received.clear()
        _received[key] = work
    return _received[key]


def _next_count(ray: ModuleType, counts: Any, work: _Work, shard: int) -> int | None:
    """Returns the next count of a task, or None where it has ended well."""
    try:
        num: int = ray.get(next(counts))
    except StopIteration:
        return None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ModuleNotFoundError):
            raise MissingPackageError(
                f"a worker lacks the package {error.cause.name!r}: install cgn-augment[ray] and "
                "what it needs on every node, in the version that is here"
            ) from error
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise UsageError(
            f"{_name(work, shard)} could not be written, because the worker died each time "
            f"({first_line(error)}): {_GO_ON}"
        ) from error
    return num


def _name(work: _Work, shard: int) -> str:
    return work.contents.kind.shard_name(shard)


@contextmanager
def _connected(ray: ModuleType) -> Iterator[None]:
    """Connects to a cluster, or starts one on this machine, unless the program has done so."""
    if ray.is_initialized():
        yield
        return
    address = _find_address()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own tells nobody
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _import_ray() -> ModuleType:
    return require_package("ray", "ray", "--engine ray needs Ray")


def _find_address() -> str:
    """Returns RAY_ADDRESS, or an empty text; raises if nothing answers there."""
    address = os.environ.get(_ADDRESS, "")
    if address.startswith("ray://"):
        raise UsageError(
            f"{_ADDRESS} is {address}, from where progress does not come: start the command on a "
            "node of the cluster, such as by 'ray job submit'"
        )
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        try:  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from error
    return address


def _no_cluster(address: str, error: Exception) -> UsageError:
    where = f"at {_ADDRESS}={address}" if address else "here"
    return UsageError(
        f"no Ray cluster {where} can be used ({first_line(error)}): start one with 'ray start "
        f"--head', or unset {_ADDRESS} to use the cores of this machine"
    )


def _stop(ray: ModuleType, tasks: list[Any]) -> None:
    """Interrupts tasks, and waits until they have removed what they had begun."""
    if not tasks:
        return
    for task in tasks:
        ray.cancel(task)
    ended = [task.completed() for task in tasks]
    ray.wait(ended, num_returns=len(ended), timeout=_SECONDS_TO_STOP)
