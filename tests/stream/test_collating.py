"""Items that cannot be stacked: the message says what to change in the dataset's transform."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from stream_helpers import Digits, stream
from torch.utils.data import default_collate

from cgn_augment.errors import ArgumentTypeError, CGNError, DataError
from cgn_augment.stream.collating import collate


class Photos(Digits):
    """Images that have no size or no tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__(8)
        self.kind = kind

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        if self.kind == "wide":
            return torch.cat([image] * (1 + index % 2), dim=-1), label
        return Image.new("RGB", (8, 8)), label


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("pil", ArgumentTypeError, r"PIL images: end its transform with ToTensor\(\)"),
        ("wide", DataError, r"different sizes .* Resize\(\(224, 224\)\)"),
    ],
)
def test_images_that_cannot_be_stacked(kind: str, error: type[CGNError], message: str) -> None:
    with pytest.raises(error, match=message):
        next(iter(stream(Photos(kind), batch_size=4)))


def test_other_errors_and_batches_are_those_of_torch() -> None:
    items = [(torch.ones(2), {"a": 1}), (torch.zeros(2), {"a": 2})]
    assert str(collate(items)) == str(default_collate(items))
    with pytest.raises(TypeError, match="found <class 'object'>"):
        collate([object()])
