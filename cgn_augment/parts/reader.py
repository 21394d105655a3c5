"""What is read of a set of parts."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from cgn_augment.parts.part import Part


class PartReader(Protocol):
    """What is read of a set of parts, such as a `PartSet`.

    Attributes:
        classes: names of the classes.
        class_counts: for each class its images by verdict.
        fingerprint: identifies all that can be read.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """For each class its images by verdict."""

    @property
    def fingerprint(self) -> str:
        """A short text that identifies all that can be read."""

    def of_class(self, name: str, member: str | None = None) -> npt.NDArray[np.int64]:
        """Returns the numbers of a class's images that have a member: object, background, …."""

    def entry(self, number: int) -> Part:
        """Returns what is known of an image, without its pictures."""

    def read(
        self,
        number: int,
        *,
        object: bool = ...,  # noqa: A002 - as the part's field is called
        background: bool = ...,
        foreground: bool = ...,
    ) -> Part:
        """Returns an image's parts, with those pictures that are asked for."""
