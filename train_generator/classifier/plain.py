"""A plain classifier: a network of torchvision, timm or this package with its own last layer.

Its file is the network's state dict.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from cgn_augment.checks import require_count
from cgn_augment.functional import Purpose, isolated_rng, step_seed
from cgn_augment.generators.tensors import save_pickle
from train_generator.classifier.backbones import make_backbone

PLAIN_FILE = "classifier.pt"


class PlainClassifier(nn.Module):
    """A network with one last layer; `make_classifier` makes one.

    Takes images (N, 3, H, W) float32, normalised as `preprocessing` says, and returns scores
    (N, num_classes) float32, before the softmax.

    Args:
        backbone: a name of torchvision, timm or this package; see `make_backbone`.
        num_classes: outputs of the last layer.
        pretrained: see `make_backbone`.
        file: see `make_backbone`.

    Attributes:
        network: the whole network, as its library builds it.
        num_classes: outputs of the last layer.
        name: name of the backbone.
        preprocessing: the form in which images must arrive.
        origin: origin of the weights, in words.
    """

    def __init__(
        self, backbone: str, num_classes: int, pretrained: bool = True, file: Path | None = None
    ) -> None:
        super().__init__()
        made = make_backbone(backbone, pretrained=pretrained, file=file)
        last = nn.Linear(made.num_features, num_classes)
        known = made.classifier is not None and len(made.classifier[0]) == num_classes
        if made.classifier is not None and known:
            last.load_state_dict(dict(zip(("weight", "bias"), made.classifier, strict=True)))
        self.network, self._layer = made.network, made.layer
        self.network.set_submodule(made.layer, last)
        self.name, self.num_classes = backbone, num_classes
        self.preprocessing = made.preprocessing
        self.origin = f"{made.origin}; last layer: {'as it came' if known else 'new weights'}"

    @property
    def last_layer(self) -> nn.Linear:
        """The layer that turns features into scores."""
        layer = self.network.get_submodule(self._layer)
        assert isinstance(layer, nn.Linear)  # noqa: S101 - it was put there when this was made
        return layer

    def forward(self, images: Tensor) -> Tensor:
        """Returns the scores of images (N, 3, H, W).

        Args:
            images: (N, 3, H, W) float32, normalised.
        """
        scores: Tensor = self.network(images)
        return scores.float()


def make_classifier(
    backbone: str,
    num_classes: int,
    pretrained: bool = True,
    *,
    backbone_file: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> PlainClassifier:
    """Makes a classifier from a backbone and a last layer for your own classes.

    Args:
        backbone: "resnet50" or another name; see `make_backbone`.
        num_classes: 2 or more. The last layer has new weights, unless the backbone was trained on
            as many classes.
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
        >>> from train_generator.classifier import make_classifier
        >>> model = make_classifier("resnet10_w32", num_classes=8, pretrained=False).eval()
        >>> model(torch.zeros(2, 3, 48, 48)).shape
        torch.Size([2, 8])
    """
    require_count("num_classes", num_classes, least=2)
    file = None if backbone_file is None else Path(backbone_file)
    with isolated_rng(step_seed(Purpose.WEIGHTS, seed), torch.device("cpu")):
        return PlainClassifier(backbone, num_classes, pretrained, file)


def save_classifier(model: PlainClassifier, path: Path) -> None:
    """Writes the network's state dict as `torch.save` does, whole or not at all.

    The network's library can load it, such as torchvision's resnet18 with eight classes:
    `torchvision.models.resnet18(num_classes=8).load_state_dict(torch.load(path))`.

    Args:
        model: the classifier.
        path: the file to write.

    Raises:
        OSError: the folder is missing or cannot be written.
        FileError: the disk is full.
    """
    state = model.network.state_dict()
    save_pickle({name: value.cpu().contiguous() for name, value in state.items()}, path)
