"""Maps the user's labels to the classes of a CGN, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import index
from typing import Any

import torch
from torch import Tensor

from cgn_augment.checks import MAX_CLASSES, require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import choice_table

ClassMapLike = Mapping[int, int | Sequence[int]] | Sequence[int | Sequence[int]]


class ClassMap:
    """Says which classes of the CGN belong to each label of the user.

    A label may have one class or several. Labels without a class stay out of the map, and no
    counterfactual is drawn for them.

    Args:
        mapping: `{label: class}`, `{label: [class, …]}`, or a sequence indexed by label.

    Attributes:
        choices: the classes of each label, ordered by label.

    Raises:
        ArgumentTypeError: a label or class is not an integer, or `mapping` is not a mapping.
        ArgumentError: the map is empty, holds a negative number, one of a million or more, or an
            empty list, or gives one class to two labels.

    Examples:
        >>> import torch
        >>> from cgn_augment import ClassMap
        >>> birds = ClassMap({0: [7, 8], 1: 130})        # cocks and hens are "chicken"
        >>> birds.to_label(torch.tensor([8, 130, 5])).tolist()
        [0, 1, -1]
    """

    def __init__(self, mapping: ClassMapLike) -> None:
        plain = _plain(mapping)
        if not isinstance(plain, (Mapping, Sequence)) or isinstance(plain, str):
            raise ArgumentTypeError(
                "class_map must be a mapping {label: class} or {label: [class, …]}, or a list of "
                f"them by label; got {mapping!r}"
            )
        items = plain.items() if isinstance(plain, Mapping) else enumerate(plain)
        try:
            given = {index(label): classes for label, classes in items}
        except TypeError as error:
            raise ArgumentTypeError(
                f"labels of class_map must be integers ({error}): take the numbers that the "
                "dataset gives its classes (class_to_idx)"
            ) from error
        self._classes = {y: list_classes(f"class_map[{y}]", given[y]) for y in given}
        if not self._classes:
            raise ArgumentError("class_map is empty: give at least one label a class")
        if min(self._classes) < 0:
            raise ArgumentError(f"class_map has the negative label {min(self._classes)}")
        for number in (*self._classes, *chain.from_iterable(self._classes.values())):
            require_count("a label or class of class_map", number, 0, MAX_CLASSES - 1)
        self._labels: dict[int, int] = {}
        for label, classes in self._classes.items():
            for y in classes:
                if self._labels.setdefault(y, label) != label:
                    raise ArgumentError(
                        f"class_map gives class {y} to label {self._labels[y]} and to label "
                        f"{label}: a counterfactual of it would have two labels. A map is "
                        "{label: classes}; turn it round if yours is {class: label}"
                    )
        self.choices = tuple(self._classes.values())
        self._label_table = _table(self._labels)
        self._row_table = _table({label: row for row, label in enumerate(self._classes)})

    def __repr__(self) -> str:
        return f"ClassMap({self._classes})"

    def __contains__(self, y: int) -> bool:
        """Whether class `y` of the CGN has a label."""
        return y in self._labels

    @property
    def classes(self) -> tuple[int, ...]:
        """All classes of the CGN that have a label."""
        return tuple(self._labels)

    def require_classes(self, num_classes: int) -> None:
        """Raises `ArgumentError` if a class is not in 0 … `num_classes` − 1.

        Args:
            num_classes: number of classes of the CGN.
        """
        lacking = sorted(y for y in self._labels if y >= num_classes)
        if lacking:
            raise ArgumentError(
                f"class_map names the classes {lacking[:5]} but the CGN has only the classes 0 to "
                f"{num_classes - 1}"
            )

    def to_class(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Returns one class for each label, drawn uniformly.

        Args:
            labels: (N,) integer labels of the user.
            generator: a CPU generator.

        Returns:
            (N,) int64 classes of the CGN; −1 for a label outside the map.
        """
        rows = _look_up(self._row_table, labels.cpu())
        padded, lengths = choice_table(self.choices)
        place = torch.rand(len(rows), generator=generator, dtype=torch.float64) * lengths[rows]
        return torch.where(rows < 0, -1, padded[rows, place.long()])

    def to_label(self, classes: Tensor) -> Tensor:
        """Returns the label of each class.

        Args:
            classes: (N,) integer classes of the CGN.

        Returns:
            (N,) int64 labels of the user; −1 for a class outside the map.
        """
        return _look_up(self._label_table, classes)


def list_classes(name: str, given: object) -> tuple[int, ...]:
    """Returns one class or several as plain integers of 0 or more, without repeats.

    Args:
        name: name of the argument, for errors.
        given: a class, or a list of classes.

    Raises:
        ArgumentTypeError: it is neither.
        ArgumentError: the list is empty, or a class is negative.
    """
    plain = _plain(given)
    listed: Sequence[Any] = plain if isinstance(plain, Sequence) else [plain]
    try:
        classes = tuple(dict.fromkeys(map(index, listed)))
    except TypeError as error:
        numbers = "; classes are numbers (class_to_idx)" if isinstance(given, str) else ""
        raise ArgumentTypeError(
            f"{name} must be a class or a list of them, got {given!r}{numbers}"
        ) from error
    if not classes or min(classes) < 0:
        raise ArgumentError(f"{name} must list classes of 0 or more, got {given!r}")
    return classes


def _plain(value: object) -> object:
    """Returns a tensor, array or NumPy number as plain Python numbers; anything else unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def _table(mapping: Mapping[int, int]) -> Tensor:
    """Returns a lookup table whose last entry, −1, stands for every key outside it."""
    table = torch.full((max(mapping) + 2,), -1, dtype=torch.int64)
    for key, value in mapping.items():
        table[key] = value
    return table


def _look_up(table: Tensor, keys: Tensor) -> Tensor:
    last = len(table) - 1
    inside = (keys >= 0) & (keys < last)
    return table.to(keys.device)[torch.where(inside, keys, last).long()]
