"""Resolves and checks the arguments of `CounterfactualDataset`."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch.utils.data import DataLoader, Dataset

from cgn_augment.checks import MAX_AHEAD, require_count
from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, ArgumentTypeError, UsageError
from cgn_augment.generators.checkpoint import known_device
from cgn_augment.interventions import Interventions
from cgn_augment.sources.drawn import FreshSource
from cgn_augment.types import FACTORS, Mechanisms, Source

Label = Literal["shape", "texture", "background", "all"]
Output = Literal["same", "dict", "namedtuple"]


def make_source(
    source: Source | Mechanisms, class_map: ClassMap | None, label_factors: tuple[str, ...]
) -> Source:
    """Returns the source, restricted to the class map; a CGN becomes a `FreshSource`.

    Raises:
        ArgumentTypeError: it is neither a source nor a CGN.
        ArgumentError: the map names classes that the CGN lacks, or the interventions list classes
            outside the map for a factor that is a label.
    """
    if isinstance(source, type):
        raise ArgumentTypeError(
            f"source is the class {source.__name__}: pass one made of it, {source.__name__}(…)"
        )
    if isinstance(source, (str, os.PathLike)):
        raise ArgumentTypeError(
            f"source must be a Source or a frozen CGN, got {source!r}: load_cgn(…) reads a CGN of "
            "that name or path, ShardSource(…) rendered shards"
        )
    if not isinstance(source, Source):
        if not isinstance(source, Mechanisms):
            data = ""
            if isinstance(source, (Dataset, DataLoader)):
                data = ": the real data comes first, then the source"
            raise ArgumentTypeError(
                f"source must be a Source (with a sample method) or a frozen CGN, got "
                f"{type(source).__name__}{data}"
            )
        source = FreshSource(source)
    if class_map is None:
        return source
    num_classes = getattr(source, "num_classes", None)
    if num_classes is not None:
        class_map.require_classes(num_classes)
    if not hasattr(source, "restrict"):
        return source
    restricted: Source = source.restrict(class_map)
    interventions = getattr(restricted, "interventions", Interventions())
    for factor in label_factors:
        outside = [y for y in interventions.listed(factor) or () if y not in class_map]
        if outside:
            raise ArgumentError(
                f"{factor} lists the classes {outside[:5]} that are outside the class map, and "
                f"{factor} is a label: add them to class_map, or take them from the list"
            )
    return restricted


def label_factors(label: Label) -> tuple[str, ...]:
    """Returns the factors whose classes are the labels."""
    return FACTORS if label == "all" else (label,)


def find_device(device: torch.device | str | None, source: Source) -> torch.device:
    """Returns the device that batches are assembled on.

    Raises:
        UsageError: the source is on another device, or the device does not exist.
    """
    at: torch.device | None = getattr(source, "device", None)
    wanted = None if device is None else known_device(device)
    if at is None:
        return wanted or torch.device("cpu")
    if wanted is not None and (wanted.type != at.type or wanted.index not in (None, at.index)):
        raise UsageError(
            f"the source is on {str(at)!r} and device={str(wanted)!r} was asked for: make it there "
            f"(a CGN with load_cgn(…, device={str(wanted)!r})), or leave device out"
        )
    return at


def find_value_range(
    value_range: tuple[float, float] | Literal["transform"] | None, transform: object
) -> tuple[float, float] | None:
    """Returns the range that real images must be in, or None if it is unknown."""
    if value_range == "transform":
        unknown = (-1.0, 1.0) if transform is None else None
        known: tuple[float, float] | None = getattr(transform, "value_range", unknown)
        return known
    if value_range is None:
        return None
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"value_range must be (low, high) or None, got {value_range!r}"
        ) from error
    if not low < high:
        raise ArgumentError(f"value_range must be (low, high), got {value_range!r}")
    return low, high


def read_keys(
    keys: tuple[str | int, str | int] | None,
) -> tuple[str | int, str | int] | None:
    """Returns the keys or positions of images and labels.

    Raises:
        ArgumentTypeError: `keys` is not a pair.
        ArgumentError: both are the same.
    """
    if keys is None:
        return None
    two = isinstance(keys, (tuple, list)) and len(keys) == 2
    if not two or not all(isinstance(key, (str, int)) for key in keys):
        raise ArgumentTypeError(
            f"keys must be (image, label), two keys or two positions of a batch, got {keys!r}"
        )
    if keys[0] == keys[1]:
        raise ArgumentError(f"keys must name images and labels, got {keys[0]!r} for both")
    return keys[0], keys[1]


def require_row_order(shuffle_rows: bool, mix: str) -> bool:
    """Returns `shuffle_rows`.

    Raises:
        ArgumentTypeError: it is not True or False.
        ArgumentError: it is set although real images and counterfactuals are kept separate.
    """
    if not isinstance(shuffle_rows, bool):
        raise ArgumentTypeError(f"shuffle_rows must be True or False, got {shuffle_rows!r}")
    if shuffle_rows and mix == "separate":
        raise ArgumentError(
            "shuffle_rows is for one batch of both, and mix='separate' yields two: leave one out"
        )
    return shuffle_rows


def require_depth(prefetch: object, device: torch.device) -> int:
    """Returns how many steps to make ahead.

    Raises:
        ArgumentTypeError: it is not an integer.
        ArgumentError: it is negative or above `MAX_AHEAD`, or this device cannot make steps ahead.
    """
    depth = require_count("prefetch", prefetch, 0, MAX_AHEAD)
    if depth and device.type not in ("cpu", "cuda"):
        raise ArgumentError(
            f"prefetch makes steps ahead on the CPU and on CUDA devices, and this stream is on "
            f"{str(device)!r}: leave it out"
        )
    return depth
