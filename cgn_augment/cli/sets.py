"""What the commands for all kinds of sets share: completing and checking a set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from tqdm import tqdm

from cgn_augment.cli.screen import AT_WORK
from cgn_augment.errors import ArgumentError
from cgn_augment.shards.checking import Problem, advice
from cgn_augment.shards.layout import SetKind
from cgn_augment.shards.manifest import Manifest
from cgn_augment.shards.on_ray import RayEngine
from cgn_augment.shards.writer import Engine, write_shards

EngineName = Literal["local", "ray"]


@contextmanager
def resumable() -> Iterator[None]:
    """Says after Ctrl-C how to complete a set."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume completes the set") from None


def find_engine(name: EngineName, ray: RayEngine) -> Engine:
    """Returns what has shards written.

    Raises:
        ArgumentError: settings of Ray without Ray.
    """
    if name == "ray":
        return ray
    if ray != RayEngine():
        raise ArgumentError("--ray is for the engine ray: pass --engine ray too")
    return write_shards


def tell_written(out: str, manifest: Manifest | None) -> None:
    """Prints whether a set is complete, and how large it is."""
    if manifest is None:
        print(f"{out}: the shards of this process are complete, those of others are not yet")
    else:
        shards = "1 shard" if manifest.num_shards == 1 else f"{manifest.num_shards} shards"
        print(f"{out}: complete, {manifest.num_samples} images in {shards}")


def check_set(
    out: str,
    verify: Callable[[str, Callable[[int], object]], list[Problem]],
    kind: SetKind,
) -> None:
    """Prints the problems of a set and what to do, and exits with 1 if there are any."""
    with tqdm(unit="shard", desc="verifying", delay=AT_WORK) as bar:
        problems = verify(out, bar.update)
    if not problems:
        print(f"{out}: nothing is wrong")
        return
    for problem in problems:
        print(problem)
    print(advice(problems, kind))
    sys.exit(1)
