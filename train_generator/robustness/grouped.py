"""Test images with known groups, and which groups show the loss from a shortcut."""

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
"""Groups 4 · car + 2 · background + object in which the background, the object or both do not match
the car."""


@dataclass(frozen=True)
class GroupedImages:
    """Images with a label and a group each.

    Attributes:
        place: where they are, as the user wrote it.
        images: paths, labels and classes.
        groups: groups of the images, in their order.
        uncommon: indices of groups, by name of a drop of accuracy; see `GroupAccuracies.drops`.
    """

    place: str
    images: LabelledPaths
    groups: Groups
    uncommon: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def find_grouped_images(place: str) -> GroupedImages:
    """Finds the test images of a place, or its validation images if there are none.

    Args:
        place: `waterbirds:PATH`, `spawrious:PATH@BENCHMARK`, `urbancars:PATH`, or `table:FILE.csv`
            with a column group; see `read_place`.

    Raises:
        ArgumentError: the images have no groups; or as for `read_place`.
        DataError: as for `read_place`, or there are only training images.
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
