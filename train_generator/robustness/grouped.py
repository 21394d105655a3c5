"""Test images whose groups are known: which there are, and which groups show a shortcut's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cgn_augment.errors import ArgumentError
from cgn_augment.images.finding import LabelledPaths
from cgn_augment.images.image_table import Groups
from cgn_augment.images.places import layout_of
from train_generator.robustness.folders import read_test_images

URBANCARS_DROPS: Mapping[str, tuple[int, ...]] = {
    "background uncommon": (2, 5),
    "object uncommon": (1, 6),
    "background and object uncommon": (3, 4),
}
"""Groups 4 · car + 2 · background + object in which one of the last two, or both, are not the
car's."""


@dataclass(frozen=True)
class GroupedImages:
    """Images with a label and a group each.

    Attributes:
        place: where they are, as the user says it.
        images: paths, labels and classes.
        groups: of these, in their order.
        uncommon: by name of a drop of accuracy the numbers of its groups; see
            `GroupAccuracies.drops`.
    """

    place: str
    images: LabelledPaths
    groups: Groups
    uncommon: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def find_grouped_images(place: str) -> GroupedImages:
    """Finds the test images of a place, or those for validation where there are no others.

    Args:
        place: `waterbirds:PATH`, `spawrious:PATH@BENCHMARK`, `urbancars:PATH`, or `table:FILE.csv`
            with a column group; see `read_place`.

    Raises:
        ArgumentError: the images have no groups; or as for `read_place`.
        DataError: as for `read_place`, or there are training images alone.
    """
    table = read_test_images(place)
    if table.groups is None:
        raise ArgumentError(
            f"{place} says nothing of groups: give waterbirds:PATH, spawrious:PATH@BENCHMARK, "
            "urbancars:PATH, or table:FILE.csv with a column group"
        )
    return GroupedImages(
        place,
        LabelledPaths(tuple(map(Path, table.paths)), table.labels, table.classes),
        table.groups,
        URBANCARS_DROPS if layout_of(place) == "urbancars" else {},
    )
