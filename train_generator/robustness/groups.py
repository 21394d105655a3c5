"""ImageNet's classes in groups: the categories of cue-conflict images, and ImageNet-9.

The tables come from their authors, who are named in the two TOML files.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from torch import Tensor

from cgn_augment.class_map import ClassMap
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.imagenet_classes import IMAGENET_CLASSES

_NUMBER = re.compile(r"^\d+_")


@dataclass(frozen=True)
class ClassGroups:
    """Names of groups, and the classes in each; no class is in two, and some may be in none.

    Attributes:
        names: names of the groups, in order.
        classes: classes of each group, one or more.

    Raises:
        ArgumentError: a name occurs twice, the numbers of names and groups differ, a group has no
            classes, or a class is below 0, above 999 or in two groups.

    Examples:
        >>> import torch
        >>> from train_generator.robustness import ClassGroups
        >>> groups = ClassGroups(("cat", "dog"), ((281, 282), (151,)))
        >>> groups.to_group(torch.tensor([151, 281, 0])).tolist()
        [1, 0, -1]
    """

    names: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or len(self.names) != len(self.classes):
            raise ArgumentError(
                f"each group needs a name of its own, got {len(self.names)} names "
                f"({len(set(self.names))} different) for {len(self.classes)} groups"
            )
        above = [y for y in self._map.classes if y >= IMAGENET_CLASSES]
        if above:
            raise ArgumentError(f"ImageNet has the classes 0 to 999, not {above[:5]}")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _map(self) -> ClassMap:
        return ClassMap(self.classes)

    def to_group(self, classes: Tensor) -> Tensor:
        """Returns the group of each class (N,) int64, (N,) int64; -1 for none.

        Args:
            classes: (N,) int64 classes of ImageNet.
        """
        return self._map.to_label(classes)

    def columns(self, classes: Sequence[str]) -> list[int] | None:
        """Returns the class with the name of each group, or None unless exactly these are named.

        A number in front of a name, as in 00_dog, is ignored.

        Args:
            classes: names of the classifier's classes.

        Examples:
            >>> from train_generator.robustness import ClassGroups
            >>> ClassGroups(("cat", "dog"), ((281,), (151,))).columns(["01_dog", "02_cat"])
            [1, 0]
        """
        plain = [_NUMBER.sub("", name) for name in classes]
        if sorted(plain) != sorted(self.names):
            return None
        return [plain.index(name) for name in self.names]


def read_groups(path: Path) -> ClassGroups:
    """Reads a table of groups: TOML, `name = [class, [first, last], …]`, both ends included.

    Args:
        path: the TOML file.

    Raises:
        DataError: the file is not such a table.
        OSError: it cannot be read.

    Examples:
        >>> from train_generator.robustness import read_groups
        >>> path = getfixture("tmp_path") / "pets.toml"
        >>> size = path.write_text("cat = [[281, 283], 285]")
        >>> read_groups(path).classes
        ((281, 282, 283, 285),)
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        classes = tuple(_expand(listed) for listed in table.values())
        return ClassGroups(tuple(table), classes)
    except (ArgumentError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no table of groups, which has lines such as 'cat = [[281, 283], 285]': "
            f"{error}"
        ) from error


@lru_cache(maxsize=1)
def cue_conflict_categories() -> ClassGroups:
    """Returns the sixteen categories of Geirhos et al., ICLR 2019, in alphabetical order.

    Examples:
        >>> from train_generator.robustness import cue_conflict_categories
        >>> categories = cue_conflict_categories()
        >>> len(categories), categories.names[0], categories.classes[0]
        (16, 'airplane', (404,))
    """
    return read_groups(Path(__file__).with_name("cue_conflict.toml"))


@lru_cache(maxsize=1)
def imagenet9_classes() -> ClassGroups:
    """Returns the nine classes of ImageNet-9 (Xiao et al., ICLR 2021), in the order of its labels.

    Examples:
        >>> from train_generator.robustness import imagenet9_classes
        >>> imagenet9_classes().names[:3]
        ('dog', 'bird', 'wheeled vehicle')
    """
    return read_groups(Path(__file__).with_name("imagenet9.toml"))


def _expand(listed: Sequence[int | Sequence[int]]) -> tuple[int, ...]:
    """Returns the classes of a list in which a pair stands for all classes between its two."""
    pairs = [(each, each) if isinstance(each, int) else each for each in listed]
    for first, last in pairs:
        if first > last:
            raise ValueError(f"[{first}, {last}] goes backwards")
    return tuple(y for first, last in pairs for y in range(first, last + 1))
