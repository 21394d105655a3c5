"""MNIST's digits as binary 32x32 masks, shipped with the package.

The protocol is that of Sauer and Geiger, ICLR 2021, appendix: resize 28x28 to 32x32 with the
nearest neighbour, then binarise at > 0.1. The file stores digits that are binarised but not
resized. That is the same, because the nearest neighbour only copies pixels. "Nearest" is torch's
`interpolate(mode="nearest")` (pixel `i` copies `floor(i * 28 / 32)`), not PIL's, which rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cgn_augment.checks import require_choice
from cgn_augment.errors import ArgumentError, DataError

SPLITS = ("train", "test")
IMAGE_SIZE = 32
DIGITS_FILE = Path(__file__).with_name("digits.npz")

_STORED_SIZE = 28
# Both come from MNIST's training set; the protocol does not use MNIST's own test set.
_RANGES = {"train": slice(0, 50_000), "test": slice(50_000, 60_000)}

NUM_DIGITS = {split: chosen.stop - chosen.start for split, chosen in _RANGES.items()}


@dataclass(frozen=True, eq=False)
class Digits:
    """Binary digits with their labels.

    Attributes:
        masks: `(N, 1, 32, 32) bool`, True on the digit.
        labels: `(N,) int64` in 0 to 9.
    """

    masks: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load_digits(split: str, num: int | None = None) -> Digits:
    """Loads the digits of one split.

    Args:
        split: "train" (the first 50 000 images of MNIST's training set) or "test" (its last 10
            000).
        num: keeps only the first `num` digits; None keeps all.

    Returns:
        The digits, in MNIST's order.

    Raises:
        ArgumentError: the split does not exist or has fewer than `num` digits.
        DataError: the package's data file is missing.

    Examples:
        >>> load_digits("test").masks.shape
        torch.Size([10000, 1, 32, 32])
    """
    require_choice("split", split, SPLITS)
    if not DIGITS_FILE.is_file():
        raise DataError(
            f"{DIGITS_FILE} is missing: reinstall the package, or write the file with "
            "tools/pack_digits.py"
        )
    chosen = _RANGES[split]
    size = NUM_DIGITS[split]
    num = size if num is None else num
    if not 1 <= num <= size:
        raise ArgumentError(f"num must be 1 to {size} for split {split!r}; got {num}")
    chosen = slice(chosen.start, chosen.start + num)
    with np.load(DIGITS_FILE) as file:
        bits, labels = file["bits"][chosen], file["labels"][chosen]
    small = np.unpackbits(bits, axis=1).reshape(-1, 1, _STORED_SIZE, _STORED_SIZE).view(np.bool_)
    nearest = np.arange(IMAGE_SIZE) * _STORED_SIZE // IMAGE_SIZE
    masks = np.ascontiguousarray(small[:, :, nearest][:, :, :, nearest])
    return Digits(torch.from_numpy(masks), torch.from_numpy(labels.astype(np.int64)))
