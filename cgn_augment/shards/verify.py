"""Checks a set of counterfactuals: its files, images and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator

from cgn_augment.errors import DataError
from cgn_augment.files import first_line
from cgn_augment.images.tar import Sample
from cgn_augment.shards.checking import Problem, verify_set
from cgn_augment.shards.config import sample_key
from cgn_augment.shards.encode import IMAGE_FORMATS, decode_picture, describe, read_classes
from cgn_augment.shards.layout import COUNTERFACTUALS
from cgn_augment.shards.manifest import Manifest
from cgn_augment.shards.records import Record
from cgn_augment.shards.sampling import numbered_classes
from cgn_augment.types import FACTORS


def verify_shards(
    url: str | os.PathLike[str], advance: Callable[[int], object] = lambda num: None
) -> list[Problem]:
    """Returns all problems with a set of shards; an empty list if there are none.

    Reads every file, compares its hash with the manifest, and decodes every sample.

    Args:
        url: the folder or URL of the set.
        advance: called with 1 after each shard.

    Raises:
        DataError: there is no set at all.

    Examples:
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.shards import ShardConfig, render_shards, verify_shards
        >>> folder = getfixture("tmp_path") / "shards"
        >>> manifest = render_shards(SmallCGN().freeze(), folder, ShardConfig(num=4))
        >>> verify_shards(folder)
        []
        >>> damaged = folder / "counterfactuals-000000.tar"
        >>> size = damaged.write_bytes(damaged.read_bytes()[:4000])
        >>> {problem.shard for problem in verify_shards(folder)}
        {0}
    """
    return verify_set(url, COUNTERFACTUALS, _check_samples, advance)


def _check_samples(
    samples: Iterator[Sample], begun: Manifest, shard: int, record: Record
) -> str | None:
    """Returns the first problem with the samples of a shard, or None."""
    counts = {factor: [0] * begun.settings["num_classes"] for factor in FACTORS}
    belonging, num = begun.config.samples_of(shard), 0
    for num, sample in enumerate(samples, start=1):
        if num > len(belonging):
            return f"has more than {len(belonging)} samples"
        what = _check_sample(sample, begun, belonging[num - 1])
        if what is not None:
            return f"sample {sample['__key__']} {what}"
        for factor, y in read_classes(sample["json"], begun.settings["num_classes"]).items():
            counts[factor][y] += 1
    if not num == record.num_samples == len(belonging):
        return f"has {num} samples where {len(belonging)} belong"
    return None if counts == record.class_counts else "has other classes than its record counts"


def _check_sample(sample: Sample, begun: Manifest, index: int) -> str | None:
    config, settings = begun.config, begun.settings
    if sample["__key__"] != sample_key(index):
        return f"lies where {sample_key(index)} belongs"
    suffixes = tuple(sorted(name for name in sample if not name.startswith("__")))
    if suffixes != config.suffixes:
        return f"has the files {suffixes} where {config.suffixes} belong"
    try:
        classes = read_classes(sample["json"], settings["num_classes"])
        found, label = json.loads(sample["json"]), int(sample["cls"])
    except DataError as error:
        return str(error).removeprefix("it ")
    except ValueError as error:
        return f"has labels that cannot be read ({first_line(error)})"
    if settings["interventions"]["class_map"] == repr(None):  # settings cannot rebuild a class map
        rules, known = config.interventions, settings.get("classes", settings["num_classes"])
        drawn = numbered_classes(rules, known, [index], config.seed)[:, 0].tolist()
        if [*classes.values()] != drawn:
            return f"has the classes {[*classes.values()]} where {drawn} belong"
    if label != classes[config.label]:
        return f"has the label {label} where its {config.label} is {classes[config.label]}"
    if {name: found.get(name) for name in ("noise_seed", "index")} != config.place(index):
        return "has another index or noise seed than its place has"
    for suffix in suffixes:
        what = _check_picture(sample[suffix], suffix, settings["image_size"])
        if what is not None:
            return what
    return None


def _check_picture(data: bytes, suffix: str, size: int) -> str | None:
    member, _, kind = suffix.rpartition(".")
    if kind not in IMAGE_FORMATS:
        return None
    try:
        decode_picture(data, kind, size, 1 if member == "mask" else 3)
    except Exception as error:  # damaged bytes make Pillow and NumPy raise anything
        return f"has a {suffix} that cannot be decoded ({describe(error)})"
    return None
