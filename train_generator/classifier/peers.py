"""Established methods against shortcuts, as options of one training.

plain: none. cutmix: Yun et al., ICCV 2019. groupdro: Sagawa et al., ICLR 2020. dfr: last-layer
retraining, Kirichenko et al., ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cgn_augment.checks import require_choices, require_positive
from cgn_augment.errors import ArgumentError
from cgn_augment.images.image_table import Groups
from train_generator.classifier.group_dro import ETA, GroupWeights
from train_generator.classifier.last_layer import require_halves
from train_generator.classifier.selection import Select

Method = Literal["plain", "cutmix", "groupdro", "dfr"]

ALONE = ("plain", "cutmix", "groupdro")
"""Methods that train on real images alone."""


@dataclass(frozen=True)
class PeerConfig:
    """The method used besides counterfactuals, and which epoch to keep.

    Attributes:
        method: see the module; None uses counterfactuals only.
        select: which epoch's weights to keep: the last, or the one with the best average or the
            best worst group on the validation images.
        eta: step size of the group weights of GroupDRO.

    Raises:
        ArgumentError: a value cannot be used.
    """

    method: Method | None = None
    select: Select = "last"
    eta: float = ETA

    def __post_init__(self) -> None:
        if self.method is not None:
            require_choices(self, method=Method)
        require_choices(self, select=Select)
        require_positive(self, "eta")


def require_groups(peer: PeerConfig, train: Groups | None, test: Groups | None) -> None:
    """Raises unless the groups that a training needs are known.

    Args:
        peer: the method.
        train: groups of the training images.
        test: groups of the validation images.

    Raises:
        ArgumentError: they are unknown, or a group has too few images for the method.
    """
    needs = [
        (peer.method == "groupdro", train, "method groupdro", "training"),
        (peer.method == "dfr", test, "method dfr", "validation"),
        (peer.select == "worst_group", test, "select worst_group", "validation"),
    ]
    for asked, groups, what, images in needs:
        if asked and groups is None:
            raise ArgumentError(
                f"{what} needs the group of each {images} image, which these do not have: name a "
                "layout that has groups (waterbirds:PATH, spawrious:PATH@SPLIT, urbancars:PATH), "
                "or table:FILE.csv with a column group"
            )
    if peer.method == "dfr" and test is not None:
        require_halves(torch.tensor(test.numbers), test.names)  # before training


def make_weights(
    peer: PeerConfig, train: Groups | None, device: torch.device
) -> GroupWeights | None:
    """Returns the weights of GroupDRO if that is the method, else None."""
    if peer.method != "groupdro" or train is None:
        return None
    counts = torch.bincount(torch.tensor(train.numbers), minlength=len(train.names))
    return GroupWeights(counts.tolist(), peer.eta, device)


def make_cutmix(
    peer: PeerConfig, num_classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Returns a function that mixes images (N, 3, H, W) and makes labels (N, C), or None.

    It draws from the global generator, which each training step seeds.
    """
    if peer.method != "cutmix":
        return None
    from torchvision.transforms import v2  # slow to import

    cutmix = v2.CutMix(num_classes=num_classes)
    return lambda images, labels: cutmix(images, labels)
