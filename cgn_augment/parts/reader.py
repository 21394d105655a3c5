"""The protocol for reading a set of parts."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from cgn_augment.parts.part import Part


class PartReader(Protocol):
    """Reads a set of parts; a `PartSet` is one.

    Attributes:
        classes: names of the classes.
        class_counts: for each class, the number of images by verdict.
        fingerprint: identifies everything that can be read.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """For each class, the number of images by verdict."""

    @property
    def fingerprint(self) -> str:
        """A short text that identifies everything that can be read."""

    def of_class(self, name: str, member: str | None = None) -> npt.NDArray[np.int64]:
        """Returns the indices of a class's images that have a member: object, background, …."""

    def entry(self, number: int) -> Part:
        """Returns the facts about an image, without its pictures."""

    def read(
        self,
        number: int,
        *,
        object: bool = ...,  # noqa: A002 - named like the part's field
        background: bool = ...,
        foreground: bool = ...,
    ) -> Part:
        """Returns an image's parts, with the requested pictures."""
