"""torchvision's semantic segmentation networks as maskers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.files import first_line
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.generators.tensors import read_state_dict
from cgn_augment.masks.answers import OUT

PREFIX = "torchvision/"


class ClassMasker(nn.Module):
    """Returns the probability of some classes of a segmentation network as the mask.

    Args:
        network: returns a dict whose `out` are logits (N, C, H, W).
        classes: indices of the classes that are object.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.segmentation import ClassMasker
        >>> class Even(torch.nn.Module):
        ...     def forward(self, images):
        ...         return {"out": torch.zeros(len(images), 4, *images.shape[2:])}
        >>> ClassMasker(Even(), [1, 2, 3])(torch.zeros(1, 3, 8, 8)).unique()
        tensor([0.7500])
    """

    def __init__(self, network: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.network, self.classes = network, list(classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised images (N, 3, H, W) to masks (N, 1, H, W) float32 in [0, 1]."""
        logits: Tensor = self.network(images)[OUT].float()
        return logits.softmax(dim=1)[:, self.classes].sum(dim=1, keepdim=True).clamp(0, 1)


def open_segmentation(
    masker: str, classes: str | None, weights: str | None, device: torch.device
) -> tuple[ClassMasker, int, str]:
    """Opens a torchvision network.

    Args:
        masker: `torchvision/NAME`.
        classes: classes that are object, separated by commas; by default all but the background.
        weights: a file with its state dict; by default torchvision's own, downloaded once.
        device: device for the network.

    Returns:
        The masker in eval mode, the size of its images in pixels, and a text that identifies it.

    Raises:
        ArgumentError: there is no such network, or it has no such class.
        CheckpointError: the weights are damaged, belong to another network, or cannot be
            downloaded.
        FileError: the file does not exist.
    """
    from torchvision import models

    name = masker.removeprefix(PREFIX)
    names = models.list_models(module=models.segmentation)
    if name not in names:
        raise ArgumentError(
            f"torchvision has no network of segmentation {name!r}: take one of {', '.join(names)}"
        )
    default = cast(Any, models.get_model_weights(name)).DEFAULT
    state = _download(default) if weights is None else read_state_dict(Path(weights).expanduser())
    # A second head, used only in training.
    state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
    categories = list(default.meta["categories"])
    network = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=len(categories)
    )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{weights} are not weights of {name} with {len(categories)} classes ({reason})"
        ) from error
    numbers = range(1, len(categories)) if classes is None else _numbers(classes, categories)
    found = ClassMasker(network, numbers).eval().requires_grad_(False).to(device)
    fingerprint = f"{name} {hash_weights(found)} {','.join(map(str, numbers))}"
    return found, int(default.transforms().resize_size[0]), fingerprint


def _numbers(classes: str, categories: Sequence[str]) -> list[int]:
    names = [name.strip() for name in classes.split(",")]
    unknown = [name for name in names if name not in categories]
    if unknown:
        raise ArgumentError(
            f"the network has no class {', '.join(unknown)}; its classes are "
            f"{', '.join(categories[1:])}"
        )
    return sorted({categories.index(name) for name in names})


def _download(weights: Any) -> dict[str, Tensor]:
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights could not be downloaded ({first_line(error)}): fetch {weights.url} where "
            "there is a network, and pass its file as weights"
        ) from error
