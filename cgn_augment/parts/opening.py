"""Opens parts: a set on disk, at a size, with the user's own labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from cgn_augment.checks import MAX_CLASSES, require_count, require_side
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.generators import load_cgn
from cgn_augment.generators.checkpoint import bundled_generators, require_device
from cgn_augment.interventions import Interventions
from cgn_augment.parts.mechanisms import Parts
from cgn_augment.parts.pools import SetPools
from cgn_augment.parts.reader import PartReader
from cgn_augment.parts.threads import Threads
from cgn_augment.ranks import count_cores

if TYPE_CHECKING:
    from cgn_augment.generators import CGN

_MOST_THREADS = 4


def load_parts(
    path: str | os.PathLike[str],
    size: int,
    device: torch.device | str = "cpu",
    *,
    class_to_idx: Mapping[str, int] | None = None,
    num_threads: int | None = None,
) -> Parts:
    """Opens a set of parts that `cgn-augment parts` wrote; usable instead of a CGN.

    Pictures are read when they are drawn. If images are not square, backgrounds are cropped at a
    random place along their longer side, and objects keep their share of the image.

    By default each object keeps its own texture (`Interventions(texture="shape")`): exchanging
    textures costs accuracy on photographs, and needs a set made with sheets of textures.

    Args:
        path: folder of the set, or a URL that fsspec knows.
        size: height and width of the images, in pixels.
        device: device for the images.
        class_to_idx: label of each class by name, such as that of your `ImageFolder`; by default
            names get the labels 0, 1, … in order.
        num_threads: threads that read and decode; they do not affect what is drawn. By default one
            per core, and at most four.

    Raises:
        ArgumentError: the class names do not match, or a class has no object or no background.
        DataError: there is no complete set.
        UsageError: the device does not exist.

    Examples:
        >>> from cgn_augment import load_parts
        >>> folder = getfixture("parts_folder")           # the set of the example of `write_parts`
        >>> parts = load_parts(folder, 32, class_to_idx={"dog": 0, "cat": 5})
        >>> parts.labels, parts.names, parts.counts["usable"]
        ((0, 5), {0: 'dog', 5: 'cat'}, 2)
    """
    from cgn_augment.parts.set import PartSet  # slow to import

    return open_parts(
        PartSet.open(path), size, device, class_to_idx=class_to_idx, num_threads=num_threads
    )


def open_parts(
    reader: PartReader,
    size: int,
    device: torch.device | str = "cpu",
    *,
    class_to_idx: Mapping[str, int] | None = None,
    num_threads: int | None = None,
) -> Parts:
    """Makes `Parts` from a set, or from parts in memory; see `load_parts`.

    Examples:
        >>> import torch
        >>> from cgn_augment import BankSource, MaskGate
        >>> from cgn_augment.parts.cut import take_apart
        >>> from cgn_augment.parts.held import HeldParts
        >>> from cgn_augment.parts.opening import open_parts
        >>> image, mask = torch.full((3, 48, 64), 200, dtype=torch.uint8), torch.zeros(1, 48, 64)
        >>> image[:, 10:20, 30:45], mask[:, 10:20, 30:45] = 20, 1
        >>> dark = take_apart(image, mask, filler="none", gate=MaskGate(), label="dark thing")
        >>> parts = open_parts(HeldParts([dark]), size=32)
        >>> parts.shape(torch.zeros(1, 2), torch.tensor([0])).shape
        torch.Size([1, 1, 32, 32])
    """
    require_side("size", size)
    threads = min(_MOST_THREADS, count_cores()) if num_threads is None else num_threads
    labels = match_classes(reader.classes, class_to_idx)
    _require_parts(reader)
    counts: dict[str, int] = {}
    for of_class in reader.class_counts.values():
        for verdict, num in of_class.items():
            counts[verdict] = counts.get(verdict, 0) + num
    return Parts(
        SetPools(reader, size, labels, Threads(threads)),
        image_size=size,
        labels=sorted(set(labels.values())),
        counts=counts,
        fingerprint=f"parts({reader.fingerprint}, size={size}, {sorted(labels.items())})",
        device=require_device(device),
        interventions=Interventions(texture="shape"),
        names={y: " or ".join(_named(labels, y)) for y in sorted(set(labels.values()))},
    )


def _named(labels: Mapping[str, int], y: int) -> list[str]:
    return [name for name, label in labels.items() if label == y]


def match_classes(names: tuple[str, ...], class_to_idx: Mapping[str, int] | None) -> dict[str, int]:
    """Returns the label of each class of a set.

    Raises:
        ArgumentError: only one of the two has a name, or a label is negative.
        ArgumentTypeError: `class_to_idx` is no mapping.

    Examples:
        >>> from cgn_augment.parts.opening import match_classes
        >>> match_classes(("cat", "dog"), {"dog": 7, "cat": 3})
        {'cat': 3, 'dog': 7}
    """
    if class_to_idx is None:
        return {name: y for y, name in enumerate(sorted(names))}
    if not isinstance(class_to_idx, Mapping):
        raise ArgumentTypeError(
            "class_to_idx must be a mapping from names to labels, such as the class_to_idx of an "
            f"ImageFolder, got {type(class_to_idx).__name__}"
        )
    strange = sorted(set(names) - set(class_to_idx))
    lacking = sorted(set(class_to_idx) - set(names))
    if strange or lacking:
        said = []
        if strange:
            said.append(f"the parts have the classes {strange[:5]} that class_to_idx lacks")
        if lacking:
            said.append(f"class_to_idx names {lacking[:5]} of which there are no parts")
        raise ArgumentError(
            f"{', and '.join(said)}: both must name the same classes, so write the parts of all "
            "classes of the data set, or pass class_to_idx of these alone"
        )
    for name, y in class_to_idx.items():
        require_count(f"class_to_idx[{name!r}]", y, 0, MAX_CLASSES - 1)
    return {name: class_to_idx[name] for name in names}


def _require_parts(reader: PartReader) -> None:
    if not reader.classes:
        raise ArgumentError("there are no parts of any class: look at why with parts info")
    for name in reader.classes:
        for member in ("object", "background"):
            if len(reader.of_class(name, member)) == 0:
                counts = {why: num for why, num in reader.class_counts[name].items() if num}
                images, usable = sum(counts.values()), counts.get("usable", 0)
                why = ", ".join(f"{num} {why}" for why, num in counts.items() if why != "usable")
                left = f"{images - usable} of its {images} images are left out ({why or 'none'})"
                if usable:
                    left += f", and of the {usable} others none has one"
                raise ArgumentError(
                    f"class {name!r} has no {member}: {left}. Look at its masks with "
                    "cgn-augment parts info, and write the parts with other masks or another gate"
                )


def load_mechanisms(
    name_or_path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    truncation: float | None = None,
    size: int | None = None,
    class_to_idx: Mapping[str, int] | None = None,
) -> CGN | Parts:
    """Loads what a command names: a CGN, or a folder or URL of parts.

    Args:
        name_or_path: a bundled generator, a checkpoint, or a set of parts.
        device: device to load it to.
        truncation: truncation of an ImageNet CGN.
        size: size of parts, in pixels; by default the median side of their images.
        class_to_idx: labels of the classes of parts, by name; a CGN has no names.

    Raises:
        ArgumentError: a size is given for a CGN or a truncation for parts, or any error of
            `load_parts`.

    Examples:
        >>> from cgn_augment.parts.opening import load_mechanisms
        >>> load_mechanisms("double-colored-mnist").image_size
        32
    """
    path = str(name_or_path)
    is_folder = path not in bundled_generators() and Path(path).expanduser().is_dir()
    if not (is_folder or "://" in path):
        if size is not None:
            raise ArgumentError(f"{path} is a CGN, whose images have one size: leave size out")
        return load_cgn(name_or_path, device=device, truncation=truncation)
    if truncation is not None:
        raise ArgumentError(f"{path} is a set of parts, which has no truncation: leave it out")
    from cgn_augment.parts.set import PartSet  # slow to import

    reader = PartSet.open(Path(path).expanduser() if is_folder else path)
    if size is None:
        sides = [max(1, round((rows * columns) ** 0.5)) for rows, columns in reader.index.sizes]
        size = int(median(sides)) if sides else 1
    return open_parts(reader, size, device, class_to_idx=class_to_idx)
