"""The invariant ensemble: one backbone, three heads (Sauer and Geiger, ICLR 2021, section 4.2).

Each head sees the same features and learns to tell classes by one factor: shape, texture or
background. Real images train the average of the three.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.files import first_line
from cgn_augment.functional import Purpose, isolated_rng, step_seed
from cgn_augment.generators.checkpoint import require_device
from cgn_augment.generators.layout import at_most
from cgn_augment.generators.tensors import read_safetensors, save_tensors
from cgn_augment.types import FACTORS
from train_generator.classifier.backbones import Backbone, Preprocessing, load_state, make_backbone

FORMAT = "train_generator/ensemble/1"

_LARGER, _BESIDE = 4, 2**24
"""Most values of a network that is filled from a file: times those in the file, and more.

It is made with its library's last layer, of up to 21 843 classes, which the heads replace."""


class HeadLogits(NamedTuple):
    """Scores of the three heads, before the softmax.

    Attributes:
        shape: (N, C) float32.
        texture: (N, C) float32.
        background: (N, C) float32.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import HeadLogits
        >>> logits = HeadLogits(torch.ones(1, 2), 2 * torch.ones(1, 2), 6 * torch.ones(1, 2))
        >>> logits.average()[0, 0].item(), logits.background_free()[0, 0].item()
        (3.0, 1.5)
    """

    shape: Tensor
    texture: Tensor
    background: Tensor

    def average(self) -> Tensor:
        """Returns the mean of the three, (N, C) float32, which real images train."""
        return (self.shape + self.texture + self.background) / 3

    def background_free(self) -> Tensor:
        """Returns the mean of shape and texture, (N, C) float32 (paper, section 4.3)."""
        return (self.shape + self.texture) / 2

    def predictions(self) -> dict[str, Tensor]:
        """Returns by name the scores of each head, of their average, and without the background."""
        return {
            **self._asdict(),
            "average": self.average(),
            "background_free": self.background_free(),
        }


class InvariantEnsemble(nn.Module):
    """A backbone and a linear head per factor; `make_ensemble` makes one.

    Takes images (N, 3, H, W) float32, normalised as `preprocessing` says, and returns `HeadLogits`
    of (N, num_classes) float32 each.

    Args:
        backbone: the common backbone.
        name: name of the backbone, as for `make_backbone`.
        num_classes: classes of each head.

    Attributes:
        backbone: maps images to features (N, F).
        heads: linear layers by factor.
        num_classes: classes of each head.
        name: name of the backbone.
        preprocessing: the form in which images must arrive.
        origin: origin of the weights, in words.
    """

    def __init__(self, backbone: Backbone, name: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone.network
        self.heads = nn.ModuleDict(
            {factor: nn.Linear(backbone.num_features, num_classes) for factor in FACTORS}
        )
        self.name, self.num_classes = name, num_classes
        self.preprocessing = backbone.preprocessing
        self.origin = f"{backbone.origin}; heads: {self._start_heads(backbone)}"

    def forward(self, images: Tensor) -> HeadLogits:
        """Returns the logits of images (N, 3, H, W).

        Args:
            images: (N, 3, H, W) float32, normalised.
        """
        features = self.backbone(images)
        return HeadLogits(*(self.heads[factor](features).float() for factor in FACTORS))

    @torch.no_grad()
    def _start_heads(self, backbone: Backbone) -> str:
        """Copies the backbone's own classifier into all heads if the numbers of classes agree."""
        if backbone.classifier is None:
            return "new weights"
        weight, bias = backbone.classifier
        if len(weight) != self.num_classes:
            return (
                f"new weights, since the backbone's classifier has {len(weight)} classes and not "
                f"{self.num_classes}"
            )
        for head in self.heads.values():
            head.load_state_dict({"weight": weight, "bias": bias})
        return "copies of the backbone's classifier"


def make_ensemble(
    backbone: str,
    num_classes: int,
    pretrained: bool = True,
    *,
    backbone_file: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> InvariantEnsemble:
    """Makes an ensemble on a backbone of torchvision or timm.

    The heads replace the backbone's classifier. If that was trained on as many classes, all three
    heads start from its weights, so the average starts as the pretrained classifier; otherwise the
    heads get new weights. `InvariantEnsemble.origin` says which.

    Args:
        backbone: "resnet50" or another torchvision name, or "timm/NAME"; see `make_backbone`.
        num_classes: classes of each head, 2 or more.
        pretrained: whether the backbone gets its library's weights; False draws new ones.
        backbone_file: a state dict with the weights of the backbone, instead of the library's.
        seed: seed of new weights. The global random generators stay untouched.

    Raises:
        ArgumentError: the backbone is unknown, or there are fewer than two classes.
        FileError: the weights cannot be downloaded, or the file does not exist.
        CheckpointError: the file is damaged, or holds another network.
        MissingPackageError: timm is not installed.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import make_ensemble
        >>> model = make_ensemble("shufflenet_v2_x0_5", num_classes=10, pretrained=False).eval()
        >>> model(torch.zeros(2, 3, 32, 32)).average().shape
        torch.Size([2, 10])
    """
    require_count("num_classes", num_classes, least=2)
    file = None if backbone_file is None else Path(backbone_file)
    with isolated_rng(step_seed(Purpose.WEIGHTS, seed), torch.device("cpu")):
        parts = make_backbone(backbone, pretrained=pretrained, file=file)
        return InvariantEnsemble(parts, backbone, num_classes)


@dataclass(frozen=True)
class LoadedEnsemble:
    """A trained ensemble, and the form of its images.

    Attributes:
        model: the ensemble, in eval mode, without gradients.
        classes: names of the classes, by label.
        mean: mean of each channel, for images in [0, 1]; subtracted.
        std: standard deviation of each channel; divided by.
        image_size: height and width in pixels.
        metadata: all metadata of the file, as text.
    """

    model: InvariantEnsemble
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    metadata: dict[str, str]


def save_ensemble(
    model: InvariantEnsemble,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
    **metadata: object,
) -> None:
    """Writes an ensemble as safetensors, whole or not at all.

    Args:
        model: the network.
        path: ends in `.safetensors`.
        classes: names of the classes, by label.
        mean: mean of each channel used to normalise images in [0, 1].
        std: standard deviation of each channel.
        image_size: height and width of the training images, in pixels.
        metadata: origin of the network (settings, versions, …); stored as text in the file.

    Raises:
        ArgumentError: the suffix is wrong, a class lacks a name, mean or std is not three numbers,
            or metadata uses a name that the file itself uses.
        OSError: the folder is missing or cannot be written; nothing is left behind.
    """
    if len(classes) != model.num_classes:
        raise ArgumentError(
            f"classes must name the {model.num_classes} classes of the ensemble, got {len(classes)}"
        )
    if len(mean) != 3 or len(std) != 3:
        raise ArgumentError(f"mean and std must be three numbers each, got {mean} and {std}")
    header = {
        "format": FORMAT,
        "backbone": model.name,
        "classes": json.dumps(list(classes)),
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
        "image_size": json.dumps(image_size),
        "origin": model.origin,
    }
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_tensors(state, Path(path), header, metadata, "an ensemble")


def load_ensemble(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> LoadedEnsemble:
    """Loads an ensemble that `save_ensemble` wrote; nothing is downloaded.

    Args:
        path: the file.
        device: device for the weights.

    Raises:
        FileError: the file does not exist.
        CheckpointError: the file is truncated, belongs to another network, or holds NaN.
        UsageError: the device does not exist.
        MissingPackageError: the backbone needs timm, which is not installed.

    Examples:
        >>> from train_generator.classifier import load_ensemble, make_ensemble, save_ensemble
        >>> model = make_ensemble("shufflenet_v2_x0_5", num_classes=2, pretrained=False)
        >>> path = getfixture("tmp_path") / "mine.safetensors"
        >>> normal = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        >>> save_ensemble(model, path, classes=["cat", "dog"], image_size=32, **normal)
        >>> load_ensemble(path).classes
        ('cat', 'dog')
    """
    target, path = require_device(device), Path(path).expanduser()
    remedy = "train one with train-generator classifier"
    state, header = read_safetensors(path, what="an ensemble", remedy=remedy, format=FORMAT)
    try:
        classes = tuple(json.loads(header["classes"]))
        mean, std = (tuple(json.loads(header[name])) for name in ("mean", "std"))
        image_size = json.loads(header["image_size"])
        stored = sum(value.numel() for value in state.values())
        with at_most(_LARGER * stored + _BESIDE):
            model = make_ensemble(header["backbone"], len(classes), pretrained=False)
        load_state(model, state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold the ensemble that it describes ({first_line(error)})"
        ) from error
    model.preprocessing = Preprocessing(mean, std, image_size)
    model.origin = header["origin"]
    model.to(target).eval().requires_grad_(False)
    return LoadedEnsemble(model, classes, mean, std, image_size, header)
