"""The content of a set of shards, as lines of text and as a picture."""

from __future__ import annotations

import os
from itertools import islice

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cgn_augment.errors import DataError, FileError
from cgn_augment.files import first_line
from cgn_augment.images.tar import Sample, read_samples
from cgn_augment.pictures.sheets import draw_sheet
from cgn_augment.shards.encode import decode_picture, read_classes, to_images
from cgn_augment.shards.manifest import read_begun
from cgn_augment.shards.store import Store
from cgn_augment.types import FACTORS


def summarize_shards(url: str | os.PathLike[str]) -> dict[str, object]:
    """Returns the content of a set, complete or not, as names and values to print.

    Raises:
        DataError: there is no set.
    """
    found = read_begun(Store(url))
    settings, config = found.settings, found.config
    num, size = found.num_samples, found.num_bytes
    summary: dict[str, object] = {
        "images": f"{num} of {config.num}",
        "shards": f"{len(found.shards)} of {found.num_shards}",
        "size": f"{size / 1e6:.1f} MB, {size / max(num, 1):.0f} bytes an image",
        "files of a sample": ", ".join(config.suffixes),
        "image size": f"{settings['image_size']}x{settings['image_size']}",
        "seed": config.seed,
        "cls is": config.label,
        "CGN": settings["cgn"],
        "rendered with": ", ".join(f"{k} {v}" for k, v in found.versions.items()),
    }
    for factor, counts in found.class_counts.items():
        drawn = [count for count in counts if count]
        if drawn:
            kinds = f"{len(drawn)} of {settings['num_classes']}"
            summary[f"{factor} classes"] = f"{kinds}, {min(drawn)} to {max(drawn)} images each"
    return summary


def draw_shards(url: str | os.PathLike[str], num_rows: int = 4, num_columns: int = 10) -> Figure:
    """Draws the first images of shards from all over the set, with their labels.

    Args:
        url: the folder or URL of the set.
        num_rows: rows of images, each from another shard if there are enough.
        num_columns: images per row.

    Raises:
        DataError: there is no set, or no shard of it is complete.
    """
    store = Store(url)
    found = read_begun(store)
    names = [record.name for record in found.shards]
    if not names:
        raise DataError(f"{store.url} has no complete shard to draw: render it with --resume")
    size, kind = found.settings["image_size"], found.config.format
    rows, captions = {}, {}
    for name in names[:: max(1, len(names) // num_rows)][:num_rows]:
        try:
            with store.open(name) as file:
                samples = list(islice(read_samples(file, name), num_columns))
            title = f"shard {found.kind.shard_number(name)}"
            rows[title] = _decode(samples, kind, size)
            labels = [read_classes(s["json"], found.settings["num_classes"]) for s in samples]
            captions[title] = ["·".join(str(label[f]) for f in FACTORS) for label in labels]
            for suffix in found.config.suffixes:
                if suffix.count(".") and name == names[0]:
                    rows[f"its {suffix.partition('.')[0]}s"] = _decode(samples, suffix, size)
        except FileError:  # the server failed; its message says why
            raise
        except Exception as error:  # damaged bytes make Pillow and NumPy raise anything
            raise DataError(
                f"{store.path(name)} cannot be drawn ({first_line(error)}): '{found.kind.command} "
                "verify' says what to write again"
            ) from error
    return draw_sheet(rows, captions, "shape · texture · background")


def _decode(samples: list[Sample], suffix: str, size: int) -> Tensor:
    member, _, kind = suffix.rpartition(".")
    channels = 1 if member == "mask" else 3
    arrays = [decode_picture(sample[suffix], kind, size, channels) for sample in samples]
    return to_images(torch.from_numpy(np.stack(arrays)))
