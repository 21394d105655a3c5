"""The layout of UrbanCars (Li et al., CVPR 2023): background and object are two shortcuts."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.image_table import TRAIN, ImageTable, some_masks

KINDS = ("urban", "country")
CLASSES = tuple(f"{kind} car" for kind in KINDS)
GROUPS = tuple(
    f"{car} car, {background} background, {thing} object"
    for car, background, thing in product(KINDS, repeat=3)
)

_FOLDERS = {
    TRAIN: "bg-0.95_co_occur_obj-0.95/train",
    "val": "bg-0.5_co_occur_obj-0.5/val",
    "test": "bg-0.5_co_occur_obj-0.5/test",
}
_MASK = "_mask.png"  # of the car, beside it


def read_urbancars(root: Path, variant: str = "") -> ImageTable:
    """Lists the images.

    Args:
        root: folder with `bg-0.95_co_occur_obj-0.95/train` and
            `bg-0.5_co_occur_obj-0.5/{val,test}`, or some of them. The mask of `000.jpg` is
            `000_mask.png`, as the authors' code (github.com/facebookresearch/Whac-A-Mole) writes
            it.
        variant: must be empty; there are no variants.

    Returns:
        The images. A group is 4 * car + 2 * background + co-occurring object, where 0 is urban and
        1 is country.

    Raises:
        ArgumentError: a variant was named.
        DataError: a folder of a group is missing, or there are no images.
    """
    if variant:
        raise ArgumentError(f"UrbanCars has no variants: take urbancars:{root}, without @{variant}")
    root = root.expanduser()
    rows = [
        (split, group, file)
        for split, folder in _FOLDERS.items()
        if (root / folder).is_dir()
        for group, kinds in enumerate(product(KINDS, repeat=3))
        for file in _files(root, folder, *kinds)
    ]
    if not rows:
        raise DataError(
            f"{root} has no images of UrbanCars. Expected: {' and '.join(_FOLDERS.values())}, each "
            "with obj-urban_bg-urban_co_occur_obj-urban/*.jpg and seven more"
        )
    files = tuple(file for _, _, file in rows)
    groups = [group for _, group, _ in rows]
    masks = [f"{file.rpartition('.')[0]}{_MASK}" for file in files]
    return ImageTable(
        place=f"urbancars:{root}",
        root=root,
        files=files,
        labels=tuple(group // 4 for group in groups),
        classes=CLASSES,
        splits=tuple(split for split, _, _ in rows),
        masks=some_masks(mask if (root / mask).is_file() else None for mask in masks),
        columns={
            "background": tuple(KINDS[group // 2 % 2] for group in groups),
            "object": tuple(KINDS[group % 2] for group in groups),
        },
    ).with_groups(groups, GROUPS)


def _files(root: Path, folder: str, car: str, background: str, thing: str) -> list[str]:
    inside = f"{folder}/obj-{car}_bg-{background}_co_occur_obj-{thing}"
    if not (root / inside).is_dir():
        raise DataError(f"{root} lacks the folder {inside} of UrbanCars: an empty one would do")
    names = sorted(path.name for path in (root / inside).glob("*.jpg"))
    return [f"{inside}/{name}" for name in names if not name.startswith(".")]
