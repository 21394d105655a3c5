"""What the field does against shortcuts, as options of one training.

plain: nothing. cutmix: Yun et al., ICCV 2019. groupdro: Sagawa et al., ICLR 2020. dfr: last-layer
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
"""Methods that are trained on real images alone."""


@dataclass(frozen=True)
class PeerConfig:
    """What is done against shortcuts besides counterfactuals, and which epoch is kept.

    Attributes:
        method: see the module; None for counterfactuals and nothing else.
        select: which epoch's weights are kept: the last; or the one with the best average, or the
            best worst group, of the validation images.
        eta: of GroupDRO, how fast the weights of the groups follow their losses.

    Raises:
        ArgumentError: a value that cannot be used.
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
    """Raises unless the groups are known that a training needs.

    Args:
        peer: what is asked for.
        train: of the training images.
        test: of the validation images.

    Raises:
        ArgumentError: they are not, or a group has too few images for the method.
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
        require_halves(torch.tensor(test.numbers), test.names)  # before anything is trained


def make_weights(
    peer: PeerConfig, train: Groups | None, device: torch.device
) -> GroupWeights | None:
    """Returns the weights of GroupDRO where it is asked for."""
    if peer.method != "groupdro" or train is None:
        return None
    counts = torch.bincount(torch.tensor(train.numbers), minlength=len(train.names))
    return GroupWeights(counts.tolist(), peer.eta, device)


def make_cutmix(
    peer: PeerConfig, num_classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Returns what mixes images (N, 3, H, W) and labels (N,) into shares (N, C), if asked for.

    It draws from the global generator, which a step of a training seeds.
    """
    if peer.method != "cutmix":
        return None
    from torchvision.transforms import v2  # imports much

    cutmix = v2.CutMix(num_classes=num_classes)
    return lambda images, labels: cutmix(images, labels)
