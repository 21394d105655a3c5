"""What maskers of others may answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cgn_augment.errors import ArgumentTypeError, DataError
from cgn_augment.masks.answers import understand_masks
from cgn_augment.masks.finding import find_masks, require_masks

IMAGES = torch.zeros(4, 3, 8, 8)
INSIDE = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
INSIDE[:, :, 2:5, 3:6] = True

FORMS: dict[str, Any] = {
    "float": INSIDE.float(),
    "without channel": INSIDE[:, 0].float(),
    "bool": INSIDE[:, 0],
    "bytes": INSIDE.to(torch.uint8) * 255,
    "array": INSIDE.float().numpy(),
    "array of bytes": np.flip(INSIDE[:, 0].numpy().astype(np.uint8)[::-1] * 255, 0),
    "one logit": {"out": INSIDE.float() * 80 - 40},
    "two classes": {"out": torch.cat([40.0 - 80 * INSIDE.float(), INSIDE.float()], 1), "aux": 0},
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_same_masks(form: str) -> None:
    def answer(part: Tensor) -> Any:
        given = FORMS[form]
        return {"out": given["out"][: len(part)]} if isinstance(given, dict) else given[: len(part)]

    found = require_masks(find_masks(answer, IMAGES, 3), (4, 1, 8, 8))
    torch.testing.assert_close(found, INSIDE.float())


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ([{"masks": INSIDE}], ArgumentTypeError, "gave a list: return masks"),
        ({"masks": INSIDE, "scores": 0}, ArgumentTypeError, "dict with the keys 'masks', 'scores'"),
        (None, ArgumentTypeError, "gave a NoneType"),
        (torch.zeros(4, 3, 8, 8), DataError, r"gave masks of \(4, 3, 8, 8\): return \(4, 1, 8, 8"),
        (np.zeros((8, 8)), DataError, r"gave masks of \(8, 8\)"),
        (torch.zeros(3, 8, 8), DataError, r"gave masks of \(3, 1, 8, 8\)"),
        ({"out": torch.zeros(4, 21, 4, 4)}, DataError, r"gave masks of \(4, 1, 4, 4\)"),
    ],
)
def test_what_is_not_understood_names_the_call(
    answer: Any, error: type[Exception], told: str
) -> None:
    def my_masker(images: Tensor) -> Any:
        return answer

    with pytest.raises(error, match=r"my_masker\(images\), images of \(4, 3, 8, 8\), .*" + told):
        find_masks(my_masker, IMAGES, 4)
    with pytest.raises(error, match=r"Linear\(images\)"):
        understand_masks(answer, IMAGES, torch.nn.Linear(1, 1))
