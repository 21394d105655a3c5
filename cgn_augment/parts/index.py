"""The facts about each image of a set of parts, and where its files lie in a shard.

One line of JSON per image, in order. It is read into columns of numbers: for four million images
this takes a quarter of a gigabyte instead of two.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cgn_augment.checks import MAX_SIDE
from cgn_augment.files import parse_json
from cgn_augment.parts.part import Part

INDEX = "index.jsonl"

Member = str
"""A picture of a sample, such as "object"."""

MEMBERS: Mapping[Member, str] = {
    "object": "object.webp",  # lossless, in half of the space of PNG
    "background": "background.jpg",  # half of the time that a WebP takes to read
    "foreground": "foreground.jpg",
    "image": "image.jpg",  # small, for an image that is left out
    "mask": "mask.png",
}
"""File names of a sample's pictures in its shard."""

SMALL = 128
"""Longer side, in pixels, of the small picture and mask of an image that is left out."""

Numbers = npt.NDArray[np.int64]


def describe_part(part: Part, source: str, why: str) -> dict[str, Any]:
    """Returns the facts about a part, without its pictures, as plain values."""
    return {
        "key": part.key,
        "label": part.label,
        "verdict": part.verdict,
        **({"why": why} if why else {}),
        "size": list(part.size),
        "box": list(part.box),
        "area": round(part.area, 6),
        "source": source,
        "columns": dict(part.columns),
    }


def index_line(facts: Mapping[str, Any], shard: int, places: Mapping[Member, list[int]]) -> bytes:
    """Returns the line of an image: facts, shard, and (offset, length) of each picture."""
    return json.dumps({**facts, "shard": shard, "places": places}).encode() + b"\n"


class _Names:
    """Texts that repeat, each mapped to a number."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.numbers = {name: number for number, name in enumerate(known)}

    def __call__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


@dataclass(eq=False)
class Index:
    """The index of a set, column by column.

    Attributes:
        keys: keys of the images, in order.
        labels: index of each image's class.
        verdicts: index of each image's verdict.
        verdict_names: verdicts by index.
        boxes: (N, 4) top, left, height and width of each object, in pixels.
        sizes: (N, 2) height and width of each image, in pixels.
        areas: (N,) share of each image that its mask covers.
        shards: shard of each image.
        places: by member (N, 2): offset and length in the shard; length 0 if it is missing.
        columns: further columns, by name.
    """

    keys: list[str]
    labels: Numbers
    verdicts: Numbers
    verdict_names: tuple[str, ...]
    boxes: Numbers
    sizes: Numbers
    areas: npt.NDArray[np.float64]
    shards: Numbers
    places: dict[Member, Numbers]
    columns: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)


def read_index(lines: Iterable[bytes], classes: tuple[str, ...]) -> Index:
    """Reads an index.

    Args:
        lines: lines of the file.
        classes: names by label.

    Raises:
        ValueError: a line does not belong to an index, or names an unknown class.
        KeyError: a line lacks an entry.

    Examples:
        >>> from cgn_augment.parts.index import describe_part, index_line, read_index
        >>> from cgn_augment.parts.part import Part
        >>> part = Part("cat/1", "cat", (30, 40), (5, 5, 10, 20), 0.1, "usable")
        >>> line = index_line(describe_part(part, "cat/1.jpg", ""), 0, {"object": [1024, 99]})
        >>> index = read_index([line], ("cat", "dog"))
        >>> index.keys, index.places["object"].tolist(), index.places["background"].tolist()
        (['cat/1'], [[1024, 99]], [[0, 0]])
    """
    label_of, verdict_of = {name: y for y, name in enumerate(classes)}, _Names(["usable"])
    keys: list[str] = []
    columns: dict[str, list[str]] = {}
    numbers = {name: array("q") for name in ("label", "verdict", "box", "size", "shard")}
    places, areas = {member: array("q") for member in MEMBERS}, array("d")
    shared: dict[str, str] = {}  # one copy of each text in the columns
    for line in lines:
        facts = parse_json(line)
        _require_facts(facts)
        keys.append(facts["key"])
        if facts["label"] not in label_of:
            raise ValueError(
                f"{facts['key']} has the class {facts['label']!r}, which does not exist"
            )
        numbers["label"].append(label_of[facts["label"]])
        numbers["verdict"].append(verdict_of(facts["verdict"]))
        numbers["box"].extend(facts["box"])
        numbers["size"].extend(facts["size"])
        numbers["shard"].append(facts["shard"])
        areas.append(facts["area"])
        for member, place in places.items():
            place.extend(facts["places"].get(member, (0, 0)))
        for name, value in facts["columns"].items():
            columns.setdefault(name, []).append(shared.setdefault(value, value))
    ragged = [name for name, values in columns.items() if len(values) != len(keys)]
    if ragged:
        raise ValueError(f"the column {ragged[0]!r} is not known of every image")
    whole = {name: np.array(column, np.int64) for name, column in numbers.items()}
    return Index(
        keys,
        whole["label"],
        whole["verdict"],
        tuple(verdict_of.numbers),
        whole["box"].reshape(-1, 4),
        whole["size"].reshape(-1, 2),
        np.array(areas, np.float64),
        whole["shard"],
        {member: np.array(place, np.int64).reshape(-1, 2) for member, place in places.items()},
        columns,
    )


def _require_facts(facts: Mapping[str, Any]) -> None:
    """Raises `ValueError` for what no image can have: readers trust sizes, and allocate by them."""
    texts = [facts["key"], facts["label"], facts["verdict"], *facts["columns"].values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{facts['key']!r} has facts that are no text")
    (rows, columns), (top, left, height, width) = facts["size"], facts["box"]
    fits = 0 <= top <= top + height <= rows <= MAX_SIDE
    fits = fits and 0 <= left <= left + width <= columns <= MAX_SIDE
    if not fits:
        raise ValueError(f"{facts['key']} has the box {facts['box']} in {facts['size']} pixels")
    if not 0 <= facts["area"] <= 1:
        raise ValueError(f"the mask of {facts['key']} covers {facts['area']} of it")
    for start, length in facts["places"].values():
        if not (start >= 0 and length >= 0):
            raise ValueError(f"{facts['key']} has files at {facts['places']}")
