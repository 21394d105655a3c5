"""The contents of a set of parts, as lines of text and as a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import DataError
from cgn_augment.parts.index import Numbers
from cgn_augment.parts.making import EXCLUDED
from cgn_augment.parts.part import Part
from cgn_augment.parts.set import PartSet
from cgn_augment.pictures.sheets import draw_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAILING = 0.5
"""Share of the median class's usable share; classes below get a warning."""

SIDE = 160
"""Side of the squares that pictures are fitted into, in pixels."""


def summarize_parts(parts: PartSet) -> dict[str, object]:
    """Returns the contents of a set, complete or not, as names and values to print."""
    found, settings = parts.manifest, parts.manifest.settings
    num, size = len(parts), found.num_bytes
    having = {member: parts.index.places[member][:, 1] > 0 for member in ("object", "background")}
    left_out = {name: count for name, count in parts.counts.items() if name != "usable" and count}
    summary: dict[str, object] = {
        "images": f"{num} of {settings['num'] or 'as many as the shards hold'}",
        "shards": f"{len(found.shards)} of {found.num_shards}",
        "size": f"{size / 1e6:.1f} MB, {size / max(num, 1):.0f} bytes an image",
        "objects": int(having["object"].sum()),
        "backgrounds": _count_backgrounds(having, settings["max_hole"]),
        "left out": ", ".join(f"{count} {name}" for name, count in left_out.items()) or "none",
        "longer side": f"at most {settings['size']} pixels",
        "filled by": settings["fill"],
        "made of": f"{settings['images']}, masks {settings['masks']}",
        "written with": ", ".join(f"{k} {v}" for k, v in found.versions.items()),
    }
    for label, name in enumerate(parts.classes):
        of_class = parts.index.labels == label
        counts = {member: int((there & of_class).sum()) for member, there in having.items()}
        share = _percent(usable_share(parts.class_counts[name]))
        summary[f"class {name}"] = (
            f"{counts['object']} objects and {counts['background']} backgrounds of "
            f"{int(of_class.sum())} images ({share} usable)"
        )
    return summary


def _count_backgrounds(having: Mapping[str, npt.NDArray[np.bool_]], max_hole: float) -> str:
    """Returns how many backgrounds there are, and how many objects lack theirs."""
    num = int(having["background"].sum())
    lack = int((having["object"] & ~having["background"]).sum())
    return f"{num}, and {lack} left out (hole above {max_hole} of the image)" if lack else f"{num}"


def usable_share(counts: Mapping[str, int]) -> float | None:
    """Returns the share of images with a usable mask, without the excluded ones.

    Args:
        counts: number of images by verdict.

    Returns:
        A number in [0, 1]; None if there is no such image.
    """
    judged = sum(count for verdict, count in counts.items() if verdict != EXCLUDED)
    return counts.get("usable", 0) / judged if judged else None


def find_failing(class_counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Returns a warning for each class that has far fewer usable images than others.

    Args:
        class_counts: for each class, the number of images by verdict.

    Returns:
        A warning for each class whose usable share is below half of the classes' median.

    Examples:
        >>> from cgn_augment.parts.sheet import find_failing
        >>> fine, failing = {"usable": 90, "empty": 10}, {"usable": 10, "empty": 90}
        >>> [warning] = find_failing({"cat": fine, "dog": fine, "fish": failing})
        >>> warning[:54]
        '10 % of the images of class fish are usable (90 empty)'
    """
    shares = {name: usable_share(counts) for name, counts in class_counts.items()}
    known = [share for share in shares.values() if share is not None]
    middle = median(known) if known else 0.0
    warnings = []
    for name, share in shares.items():
        if share is None or share >= FAILING * middle:
            continue
        counts = {
            k: n for k, n in class_counts[name].items() if n and k not in ("usable", EXCLUDED)
        }
        why = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        warnings.append(
            f"{_percent(share)} of the images of class {name} are usable ({why}), against "
            f"{_percent(middle)} of the median class; so uneven a choice gives the class away: "
            "correct its masks, or take another masker"
        )
    return warnings


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"


def draw_parts(parts: PartSet, num_columns: int = 12) -> Figure:
    """Draws parts from all over a set: mask, object, background, and the two combined.

    Images that are left out follow, with the reason.

    Args:
        parts: the set.
        num_columns: number of images of each kind.

    Raises:
        ArgumentError: the number of columns is below 1.
        DataError: the set is empty.
        FileError: a shard is missing or damaged.
    """
    require_count("num_columns", num_columns)
    if len(parts) == 0:
        raise DataError(f"{parts.store.url} has no complete shard to draw: go on with --resume")
    has_object = parts.index.places["object"][:, 1] > 0
    numbers = _spread(np.flatnonzero(has_object), num_columns)
    shown = [parts.read(number, foreground=True) for number in numbers]
    rows: dict[str, Tensor] = {}
    captions: dict[str, list[str]] = {}
    if shown:
        rows["put together"] = _row([put_together(part) for part in shown])
        rows["mask"] = _row([_in_place(part)[3:] for part in shown])
        rows["object"] = _row([_on_grey(part.object) for part in shown])
        if any(part.foreground is not None for part in shown):
            rows["foreground"] = _row([part.foreground for part in shown])
        rows["background"] = _row([part.background for part in shown])
        lacks = ["hole too large\n" if part.background is None else "" for part in shown]
        captions["background"] = [
            f"{lack}{_short(part.key)}" for lack, part in zip(lacks, shown, strict=True)
        ]
    left_out = _spread(np.flatnonzero(~has_object), num_columns)
    if left_out:
        rows["left out"] = _row([parts.picture(n, "image") for n in left_out])
        rows["its mask"] = _row([parts.picture(n, "mask") for n in left_out])
        entries = [parts.entry(n) for n in left_out]
        captions["its mask"] = [f"{part.verdict}\n{_short(part.key)}" for part in entries]
    return draw_sheet(rows, captions)


def put_together(part: Part) -> Tensor:
    """Returns the object of a part on its own background, or on grey, (3, H, W) uint8."""
    placed = _in_place(part)
    under = part.background if part.background is not None else torch.full_like(placed[:3], 128)
    alpha = placed[3:].float() / 255
    return (alpha * placed[:3] + (1 - alpha) * under).round().to(torch.uint8)


def _in_place(part: Part) -> Tensor:
    """Returns the object of a part at its place in the image, (4, H, W) uint8."""
    placed = torch.zeros(4, *part.size, dtype=torch.uint8)
    if part.object is not None:
        top, left, height, width = part.box
        placed[:, top : top + height, left : left + width] = part.object
    return placed


def _on_grey(cut: Tensor | None) -> Tensor | None:
    if cut is None:
        return None
    alpha = cut[3:].float() / 255
    return (alpha * cut[:3] + (1 - alpha) * 128).to(torch.uint8)


def _short(key: str, most: int = 20) -> str:
    """Returns the end of a key that fits under a picture."""
    return key if len(key) <= most else f"…{key[1 - most :]}"


def _spread(numbers: Numbers, most: int) -> list[int]:
    """Returns at most `most` of the numbers, spread evenly."""
    chosen = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)
    return [int(number) for number in numbers[chosen]]


def _row(pictures: list[Tensor | None] | list[Tensor]) -> Tensor:
    """Returns pictures (C, H, W) uint8, in squares, as (N, 3, SIDE, SIDE) float32 in [-1, 1]."""
    squares = torch.ones(len(pictures), 3, SIDE, SIDE)
    for square, picture in zip(squares, pictures, strict=True):
        if picture is not None:
            height, width = picture.shape[1:]
            scale = SIDE / max(height, width)
            size = max(1, round(height * scale)), max(1, round(width * scale))
            fitted = torch.nn.functional.interpolate(
                picture[None].float(), size, mode="bilinear", antialias=True
            )[0]
            top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
            square[:, top : top + size[0], left : left + size[1]] = fitted / 127.5 - 1
    return squares
