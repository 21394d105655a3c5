"""What a masker must be, and what it must give."""

from __future__ import annotations

from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError
from cgn_augment.types import Masker


def require_masker(masker: Masker) -> Masker:
    """Returns the masker.

    Raises:
        ArgumentError: it is a network in training mode.
        ArgumentTypeError: it cannot be called.
    """
    if not callable(masker):
        raise ArgumentTypeError(
            f"masker must take images to masks (such as load_masker returns), got {masker!r}"
        )
    if isinstance(masker, nn.Module) and masker.training:
        raise ArgumentError("the masker is in training mode: call masker.eval() first")
    return masker


def require_shape(masks: Tensor, num: int, image_size: int) -> None:
    """Refuses masks of another shape than (num, 1, image_size, image_size).

    Raises:
        DataError: they have it not.
    """
    expected = (num, 1, image_size, image_size)
    if tuple(masks.shape) != expected:
        raise DataError(f"the masker must give masks {expected}, got {tuple(masks.shape)}")


def require_unit_range(masks: Tensor) -> None:
    """Refuses masks that leave [0, 1].

    Raises:
        DataError: they do, or some are not a number.
    """
    least, most = float(masks.min()), float(masks.max())
    if not 0 <= least <= most <= 1:
        raise DataError(f"masks must be in [0, 1], got [{least:.3g}, {most:.3g}]")
