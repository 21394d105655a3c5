"""What a set of shards holds: as lines of text and as a picture."""

from __future__ import annotations

import json
import os
from typing import Any

from matplotlib.figure import Figure

from cgn_augment.errors import DataError
from cgn_augment.images.tar import read_samples
from cgn_augment.pictures.sheets import draw_sheet
from cgn_augment.shards.config import config_of, shard_name
from cgn_augment.shards.encode import decode_picture, image_kind, to_images
from cgn_augment.shards.manifest import find_complete, read_settings
from cgn_augment.shards.store import Store
from cgn_augment.types import FACTORS


def summarize_shards(url: str | os.PathLike[str]) -> dict[str, object]:
    """Returns what a set holds, complete or not, as names and values to print.

    Raises:
        DataError: there is no set.
    """
    store = Store(url)
    begun = read_settings(store)
    settings, config = begun["settings"], config_of(begun["settings"])
    complete = find_complete(store, config, range(config.num_shards))
    records = list(complete.values())
    num = sum(record.num_samples for record in records)
    size = sum(record.num_bytes for record in records)
    summary: dict[str, object] = {
        "images": f"{num} of {config.num}",
        "shards": f"{len(complete)} of {config.num_shards}",
        "size": f"{size / 1e6:.1f} MB, {size / max(num, 1):.0f} bytes an image",
        "files of a sample": ", ".join(config.suffixes),
        "image size": f"{settings['image_size']}x{settings['image_size']}",
        "seed": config.seed,
        "cls is": config.label,
        "CGN": settings["cgn"],
        "rendered with": ", ".join(f"{k} {v}" for k, v in begun["versions"].items()),
    }
    for factor in FACTORS:
        counts = [sum(c) for c in zip(*(r.class_counts[factor] for r in records), strict=True)]
        drawn = [count for count in counts if count]
        if drawn:
            kinds = f"{len(drawn)} of {settings['num_classes']}"
            summary[f"{factor} classes"] = f"{kinds}, {min(drawn)} to {max(drawn)} images each"
    return summary


def draw_shards(url: str | os.PathLike[str], num_rows: int = 4, num_columns: int = 10) -> Figure:
    """Draws the first images of shards from all over the set, with their labels.

    Args:
        url: the folder or URL of the set.
        num_rows: rows of images, each from another shard where there are enough.
        num_columns: images of a row.

    Raises:
        DataError: there is no set, or no shard of it is complete.
    """
    store = Store(url)
    config = config_of(read_settings(store)["settings"])
    complete = sorted(find_complete(store, config, range(config.num_shards)))
    if not complete:
        raise DataError(f"{store.url} has no complete shard to draw: render it with --resume")
    step = max(1, len(complete) // num_rows)
    rows, captions = {}, {}
    for shard in complete[::step][:num_rows]:
        with store.open(shard_name(shard)) as file:
            samples = []
            for sample in read_samples(file, shard_name(shard)):
                samples.append(sample)
                if len(samples) == num_columns:
                    break
        kind = image_kind(samples[0])
        name = f"shard {shard}"
        rows[name] = to_images([decode_picture(sample[kind], kind) for sample in samples])
        labels = [json.loads(sample["json"]) for sample in samples]
        captions[name] = ["·".join(str(found[f]) for f in FACTORS) for found in labels]
        for suffix in config.suffixes:
            if suffix.count(".") and shard == complete[0]:
                of_member: Any = suffix.rpartition(".")[2]
                decoded = [decode_picture(sample[suffix], of_member) for sample in samples]
                rows[f"its {suffix.partition('.')[0]}s"] = to_images(decoded)
    return draw_sheet(rows, captions, "shape · texture · background")
