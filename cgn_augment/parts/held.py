"""Parts in memory, read like a set on disk: `open_parts` accepts them instead of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from cgn_augment.generators.fingerprint import hash_tensors
from cgn_augment.parts.part import Part


class HeldParts:
    """Parts in memory, such as `take_apart` returns.

    Args:
        parts: from images of any sizes.
        classes: names of the classes; by default those of the parts, sorted.
    """

    def __init__(self, parts: Iterable[Part], classes: Sequence[str] | None = None) -> None:
        self._parts = list(parts)
        self.classes = tuple(
            sorted({part.label for part in self._parts}) if classes is None else classes
        )

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """For each class, the number of images by verdict."""
        return {
            name: dict(Counter(part.verdict for part in self._parts if part.label == name))
            for name in self.classes
        }

    @property
    def fingerprint(self) -> str:
        """A hash of all pictures."""
        pictures = {
            f"{number} {part.key} {part.label} {part.box} {part.size} {member}": picture
            for number, part in enumerate(self._parts)
            for member in ("object", "background", "foreground")
            if (picture := getattr(part, member)) is not None
        }
        return hash_tensors(pictures)

    def of_class(self, name: str, member: str | None = None) -> npt.NDArray[np.int64]:
        """Returns the indices of a class's images, or of those that have the member."""
        numbers = [
            number
            for number, part in enumerate(self._parts)
            if part.label == name and (member is None or getattr(part, member) is not None)
        ]
        return np.array(numbers, np.int64)

    def entry(self, number: int) -> Part:
        """Returns the facts about an image, with all its pictures."""
        return self._parts[number]

    def read(self, number: int, **_: bool) -> Part:
        """Returns an image's parts, with all its pictures."""
        return self._parts[number]
