"""Broken files: what a disk, a network or an attacker makes of whole ones, by a seed."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cgn_augment.errors import CGNError

SECONDS = 20.0
"""Most that a case may take."""

NUMBERS: tuple[Any, ...] = (0, -1, 1, 2**31, 2**63, -(2**64), 10**15, 10**400, 0.5, -0.0, 1e30)
NUMBERS += (float("nan"), float("inf"))
TEXTS = (
    "",
    "x",
    "../../etc/passwd",
    "/dev/zero",
    "{0..9}.tar",
    "a::b",
    "\ud800",
    "\x00",
    "é" * 300,
)
ODD: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, [], {}, [[]], {"a": []}, [None] * 3)


def break_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, inserts, repeats, moves or blanks one to four parts of a file."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not broken:
            break
        # Half of the time near the beginning, where the headers are.
        most = len(broken) if rng.random() < 0.5 else min(len(broken), 2000)
        start = rng.randrange(most)
        end = min(len(broken), start + rng.choice((1, 2, 4, 8, 100, 512, 4096)))
        do = rng.randrange(8)
        if do == 0:
            broken[start] ^= 1 << rng.randrange(8)
        elif do == 1:
            broken[start:end] = rng.randbytes(end - start)
        elif do == 2:
            del broken[start:end]
        elif do == 3:
            broken[start:start] = rng.randbytes(rng.choice((1, 7, 512)))
        elif do == 4:
            broken[start:start] = broken[start:end]
        elif do == 5:
            broken[start:end] = bytes(end - start)
        elif do == 6:
            broken[start:end] = b"\xff" * (end - start)
        else:
            del broken[start:]
    return bytes(broken)


def places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the keys that lead to each value in a tree of dicts, lists and tuples."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, (list, tuple)):
        children = enumerate(value)
    for key, child in children:
        yield (*place, key)
        yield from places_in(child, (*place, key))


def break_tree(value: Any, rng: random.Random) -> Any:
    """Changes, drops or swaps one to three values of a tree, which is not changed itself."""
    for _ in range(rng.randint(1, 3)):
        places = list(places_in(value))
        if places:
            value = _changed(value, rng.choice(places), rng, rng.choice(places))
    return value


def _changed(value: Any, place: tuple[Any, ...], rng: random.Random, other: Any) -> Any:
    if not place:
        return rng.choice(ODD)
    key, rest = place[0], place[1:]
    if isinstance(value, tuple):
        return tuple(_changed(list(value), place, rng, other))
    copy = value.copy()
    if rest:
        copy[key] = _changed(copy[key], rest, rng, other)
    elif rng.random() < 0.25:
        del copy[key]
    elif rng.random() < 0.2 and isinstance(copy, dict):
        copy[rng.choice(TEXTS)] = copy.pop(key)
    else:
        copy[key] = rng.choice(ODD)
    return copy


def break_json(data: bytes, rng: random.Random) -> bytes:
    """Breaks what a JSON file says; one in four times its bytes."""
    if rng.random() < 0.25:
        return break_bytes(data, rng)
    return json.dumps(break_tree(json.loads(data), rng)).encode()


class _TooLongError(BaseException):
    """A case ran past its limit; nothing catches it."""


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Ends a block that takes longer."""

    def stop(signum: int, frame: Any) -> None:
        raise _TooLongError(f"a case took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answers(read: Callable[[], object]) -> str:
    """Reads a broken file and returns "whole", what the reader says, or the name of the error.

    Raises:
        Exception: of another library, or one whose message is not one line.
    """
    try:
        with limited():
            found = read()
    except CGNError as error:
        told = error
    else:
        return found if isinstance(found, str) else "whole"
    lines = str(told).splitlines()
    assert len(lines) == 1, f"{type(told).__name__} of {len(lines)} lines: {lines[:3]}"
    assert len(lines[0]) < 2000, f"a message of {len(lines[0])} characters"
    return type(told).__name__
