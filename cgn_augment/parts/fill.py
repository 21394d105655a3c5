"""Fills the hole that an object leaves in its image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.masks.refine import import_opencv
from cgn_augment.parts.blend import Bools, Floats, blend
from cgn_augment.parts.copies import choose_copies

Filler = Callable[[Tensor, Tensor], Tensor]
"""Fills a hole. Takes an image, (3, H, W) uint8, and its hole, (H, W) bool with both values;
returns the image, (3, H, W) uint8, with the hole filled and all else unchanged. All are on the
CPU."""

RADIUS = 3
"""Radius of Telea's method, in pixels."""


def find_filler(filler: str | Filler) -> Filler:
    """Returns a function that fills holes.

    Args:
        filler: "copy" fills with blended copies from the same image (`fill_with_copies`); "telea"
            continues the colours at the border (`fill_with_telea`), which is faster and smoother;
            "none" paints the hole in the mean colour of the rest, so its shape stays visible. Or
            any such function (see `Filler`); each of its results is checked.

    Raises:
        ArgumentError: no filler has that name.
        ArgumentTypeError: it is neither a name nor a function.
        MissingPackageError: "telea" needs OpenCV, which is not installed.

    Examples:
        >>> import torch
        >>> from cgn_augment.parts.fill import find_filler
        >>> image = torch.full((3, 32, 32), 7, dtype=torch.uint8)
        >>> hole = torch.zeros(32, 32, dtype=torch.bool)
        >>> hole[10:20, 10:20] = True
        >>> find_filler("none")(image, hole).unique().tolist()
        [7]
    """
    if isinstance(filler, str):
        if filler not in FILLERS:
            raise ArgumentError(
                f"there is no filler {filler!r}: give one of {', '.join(FILLERS)}, or a function"
            )
        if filler == "telea":
            import_opencv('filling with "telea"')
        return FILLERS[filler]
    if not callable(filler):
        raise ArgumentTypeError(
            f"a filler is one of {', '.join(FILLERS)}, or a function, got {filler!r}"
        )
    return filler if filler in FILLERS.values() else _Checked(filler)


@dataclass(frozen=True)
class _Checked:
    """A filler whose results are checked."""

    function: Filler

    def __call__(self, image: Tensor, hole: Tensor) -> Tensor:
        filled = self.function(image.clone(), hole.clone())
        if not isinstance(filled, Tensor) or filled.dtype != torch.uint8:
            kind = getattr(filled, "dtype", type(filled).__name__)
            raise DataError(f"a filler must return a uint8 tensor (3, H, W), got {kind}")
        if filled.shape != image.shape:
            raise DataError(
                f"a filler must return an image of the shape {tuple(image.shape)} that it was "
                f"given, got {tuple(filled.shape)}"
            )
        return torch.where(hole, filled.to(image.device), image)


def fill_with_copies(image: Tensor, hole: Tensor) -> Tensor:
    """Fills a hole with copies of its surroundings, and blends their seams.

    Offsets are found on a small copy of the image and applied at full size (He and Sun, Statistics
    of Patch Offsets for Image Completion, ECCV 2012).

    Args:
        image: (3, H, W) uint8.
        hole: (H, W) bool; at least one pixel is outside.

    Returns:
        (3, H, W) uint8, unchanged outside the hole.
    """
    given: Floats = image.numpy().astype(np.float32) / 127.5 - 1
    unknown: Bools = hole.numpy()
    made = blend(given, unknown, choose_copies(given, unknown))
    return torch.from_numpy(((made + 1) * 127.5).round().clip(0, 255).astype(np.uint8))


def fill_with_telea(image: Tensor, hole: Tensor) -> Tensor:
    """Fills a hole with the colours at its border (Telea, Journal of Graphics Tools 2004).

    Args:
        image: (3, H, W) uint8.
        hole: (H, W) bool.

    Returns:
        (3, H, W) uint8, unchanged outside the hole.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    cv2 = import_opencv('filling with "telea"')
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    made = cv2.inpaint(pixels, hole.numpy().astype(np.uint8), RADIUS, cv2.INPAINT_TELEA)
    return torch.where(hole, torch.from_numpy(made).permute(2, 0, 1), image)


def fill_with_mean(image: Tensor, hole: Tensor) -> Tensor:
    """Paints a hole in the mean colour of the rest; arguments and result as in `Filler`."""
    mean = image[:, ~hole].double().mean(dim=1).round().to(torch.uint8)
    return torch.where(hole, mean[:, None, None], image)


FILLERS: dict[str, Filler] = {
    "copy": fill_with_copies,
    "telea": fill_with_telea,
    "none": fill_with_mean,
}
"""Fillers by name."""
