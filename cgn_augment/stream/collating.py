"""Makes a batch from items, as a `DataLoader` does, and says what to do where that fails."""

from __future__ import annotations

from typing import Any

from torch.utils.data import default_collate

from cgn_augment.errors import ArgumentTypeError, DataError
from cgn_augment.files import first_line


def collate(items: list[Any]) -> Any:
    """Returns `default_collate(items)`.

    Raises:
        ArgumentTypeError: items hold PIL images.
        DataError: tensors of different sizes.

    Examples:
        >>> import torch
        >>> from cgn_augment.stream.collating import collate
        >>> images, labels = collate([(torch.zeros(3, 8, 8), 0), (torch.ones(3, 8, 8), 1)])
        >>> images.shape, labels
        (torch.Size([2, 3, 8, 8]), tensor([0, 1]))
    """
    try:
        return default_collate(items)
    except TypeError as error:
        if "PIL." not in str(error):
            raise
        raise ArgumentTypeError(
            "the dataset returns PIL images: end its transform with ToTensor(), or with "
            "v2.ToImage() and v2.ToDtype(torch.float32, scale=True)"
        ) from error
    except RuntimeError as error:
        if "equal size" not in str(error):
            raise
        raise DataError(
            f"items of one batch have different sizes ({first_line(error)}): resize images to one "
            "size in the dataset's transform, by RandomResizedCrop(224) or Resize((224, 224)), "
            "since Resize(224) keeps the aspect; or pass a collate_fn"
        ) from error
