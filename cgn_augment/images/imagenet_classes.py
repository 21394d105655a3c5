"""Classes by name: ImageNet's list, and the classes that the published CGN draws best."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from cgn_augment.checks import require_choice
from cgn_augment.errors import ArgumentError
from cgn_augment.types import FACTORS

IMAGENET_CLASSES = 1000

_FOLDER = Path(__file__).parent
_NUM_SUGGESTIONS = 5

_ALIKE = {"crane": (134, 517), "maillot": (638, 639)}
"""Classes with the same ImageNet name; the list adds a word to one of the two."""


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """Returns ImageNet's 1000 class names in class order, as torchvision has them.

    The package holds its own file, since importing torchvision takes as long as importing torch.

    Examples:
        >>> from cgn_augment.images.imagenet_classes import imagenet_names
        >>> imagenet_names()[207]
        'golden retriever'
    """
    return tuple((_FOLDER / "imagenet_classes.txt").read_text().splitlines())


def class_names(num_classes: int) -> tuple[str, ...] | None:
    """Returns the class names of a CGN: those of ImageNet if it has 1000 classes, else None.

    Args:
        num_classes: number of classes of the CGN.
    """
    return imagenet_names() if num_classes == IMAGENET_CLASSES else None


def find_class(
    given: int | str, num_classes: int, own_names: Mapping[int, str] | None = None
) -> int:
    """Returns the index of a class given by index or name.

    Args:
        given: an index, also as text, or a whole name from ImageNet's list. An underscore is a
            space and case does not matter, so Cardigan, a dog, and cardigan, clothing, are the same
            name and need an index.
        num_classes: number of classes of the CGN.
        own_names: names of the classes, if the mechanisms have their own, as parts do.

    Raises:
        ArgumentError: the class does not exist, the name stands for two classes, or the classes of
            this CGN have no names. The message lists the possible indices.

    Examples:
        >>> from cgn_augment.images.imagenet_classes import find_class
        >>> find_class("Golden_Retriever", 1000), find_class("7", 10)
        (207, 7)
    """
    labels = [y for y, name in (own_names or {}).items() if name == str(given)]
    if labels:
        return labels[0]
    text = " ".join(str(given).replace("_", " ").lower().split())
    if text.removeprefix("-").isdecimal():
        if not 0 <= int(text) < num_classes:
            raise ArgumentError(f"there are the classes 0 to {num_classes - 1}, not {text}")
        return int(text)
    if own_names:
        raise ArgumentError(f"{given!r} is none of the classes {list(own_names.values())}")
    names = class_names(num_classes)
    if names is None:
        raise ArgumentError(
            f"the {num_classes} classes of this CGN have no names, got {given!r}: give an index of "
            f"0 to {num_classes - 1}"
        )
    alike = _ALIKE.get(text, ())
    found = [i for i, name in enumerate(names) if name.lower() == text or i in alike]
    if len(found) == 1:
        return found[0]
    if found:
        raise ArgumentError(
            f"{given!r} may be {' or '.join(f'{names[i]} ({i})' for i in found)}: give the index "
            "of the one that is meant"
        )
    raise ArgumentError(
        f"{given!r} is not one of ImageNet's class names; the nearest are "
        f"{_suggest(text, names)}: give one of these, or an index"
    )


def find_classes(
    given: int | str | Sequence[int | str] | None,
    num_classes: int,
    own_names: Mapping[int, str] | None = None,
) -> list[int] | None:
    """Returns the indices of one or several classes, or None for None; errors as `find_class`.

    Args:
        given: one class, several, or None; see `find_class`.
        num_classes: number of classes of the CGN.
        own_names: see `find_class`.
    """
    if given is None:
        return None
    several = [given] if isinstance(given, int | str) else given
    return [find_class(each, num_classes, own_names) for each in several]


def best_classes(factor: str) -> list[int]:
    """Returns the ImageNet classes that the published CGN's mechanism for a factor draws best.

    The list comes from the paper's release.

    Args:
        factor: shape, texture or background.

    Raises:
        ArgumentError: the factor does not exist.
    """
    require_choice("factor", factor, FACTORS)
    listed: list[int] = tomllib.loads((_FOLDER / "best_classes.toml").read_text())[factor]
    return listed


def _suggest(text: str, names: Sequence[str]) -> str:
    """Returns names that contain the text as a word, then names that look alike."""
    indices: dict[str, list[str]] = {}
    for index, name in enumerate(names):
        indices.setdefault(name.lower(), []).append(f"{name} ({index})")
    words = set(text.split())
    found = [name for name in indices if words & set(name.split())]
    found += difflib.get_close_matches(text, indices, n=_NUM_SUGGESTIONS, cutoff=0.0)
    nearest = list(dict.fromkeys(found))[:_NUM_SUGGESTIONS]
    return ", ".join(each for name in nearest for each in indices[name])
