"""Classifiers of every kind with one interface: images in, scores of each named output out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.files import first_line
from cgn_augment.generators.checkpoint import require_device
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.generators.layout import without_memory
from cgn_augment.generators.tensors import require_finite, unpickle, without_prefixes
from cgn_augment.images.imagenet_classes import IMAGENET_CLASSES, imagenet_names
from train_generator.classifier import MNISTClassifier
from train_generator.classifier.backbones import make_backbone
from train_generator.classifier.ensemble import HeadLogits, InvariantEnsemble, load_ensemble
from train_generator.metrics.groups import require_finite_scores

_RESIZE_RATIO = 256 / 224
"""Ratio of the resized image to the crop, as is usual on ImageNet."""


@dataclass(frozen=True)
class Cropping:
    """Resizes images, and crops a square from their centre.

    Attributes:
        size: side of the square, in pixels.
        shorter: the shorter side before the crop, in pixels; the other follows.

    Examples:
        >>> from PIL import Image
        >>> from train_generator.robustness import Cropping
        >>> Cropping(224, shorter=256)(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 224, 224])
    """

    size: int
    shorter: int

    def __call__(self, images: Tensor | Image.Image) -> Tensor:
        """Returns (3, size, size) for a PIL image, or N of them for (N, 3, H, W); in [0, 1]."""
        resized = transforms.resize(images, [self.shorter], antialias=True)
        cropped = transforms.center_crop(resized, [self.size, self.size])
        if isinstance(cropped, Tensor):
            return cropped.clamp(0, 1)
        return transforms.pil_to_tensor(cropped).float() / 255  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A classifier in eval mode, with the form of its images.

    Attributes:
        model: maps normalised images (N, 3, S, S) float32; in eval mode.
        outputs: names of its outputs: an ensemble's heads, `average` and `background_free`;
            `logits` for any other classifier.
        name_scores: maps the result of the model to scores (N, C) by output.
        num_classes: C.
        classes: names of the classes, or None.
        mean: mean of each channel, for images in [0, 1]; subtracted.
        std: standard deviation of each channel; divided by.
        image_size: S, in pixels.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import MNISTClassifier
        >>> from train_generator.robustness import plain_predictor
        >>> predictor = plain_predictor(MNISTClassifier(), 10, image_size=32)
        >>> {name: scores.shape for name, scores in predictor(torch.rand(2, 3, 32, 32)).items()}
        {'logits': torch.Size([2, 10])}
    """

    model: nn.Module
    outputs: tuple[str, ...]
    name_scores: Callable[[Any], Mapping[str, Tensor]]
    num_classes: int
    classes: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    @cached_property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """A short text that identifies the weights."""
        return hash_weights(self.model)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Returns by output the scores (N, C) float32 of images (N, 3, S, S) float32 in [0, 1].

        Raises:
            ArgumentError: a score is NaN or infinite.
        """
        normal = transforms.normalize(images.to(self.device), list(self.mean), list(self.std))
        scores = self.name_scores(self.model(normal))
        return {
            name: require_finite_scores(scores[name].float(), f"the output {name}")
            for name in self.outputs
        }

    @property
    def cropping(self) -> Cropping:
        """Resizes the shorter side to 256/224 of S, and crops S from the centre."""
        return Cropping(self.image_size, round(self.image_size * _RESIZE_RATIO))

    @property
    def fitting(self) -> Cropping:
        """Resizes the shorter side to S; images of size S stay unchanged."""
        return Cropping(self.image_size, self.image_size)

    def see(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the scores of a CGN's images (N, 3, H, W) float32 in [-1, 1].

        Images of the classifier's own size are used whole, others after `cropping`.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].
        """
        same = images.shape[-2:] == (self.image_size, self.image_size)
        return self((self.fitting if same else self.cropping)((images + 1) / 2))


def plain_predictor(
    model: nn.Module,
    num_classes: int,
    *,
    classes: Iterable[str] | None = None,
    mean: Iterable[float] = (0.5, 0.5, 0.5),
    std: Iterable[float] = (0.5, 0.5, 0.5),
    image_size: int,
) -> Predictor:
    """Makes a predictor from a network that returns scores (N, C); the output is called `logits`.

    Args:
        model: the network; set to eval mode.
        num_classes: C.
        classes: names of the classes.
        mean: mean of each channel, for images in [0, 1]; with the defaults the network gets [-1,
            1].
        std: likewise.
        image_size: height and width in pixels.
    """
    return Predictor(
        model.eval(),
        ("logits",),
        lambda logits: {"logits": logits},
        num_classes,
        None if classes is None else tuple(classes),
        tuple(mean),
        tuple(std),
        image_size,
    )


def ensemble_predictor(model: InvariantEnsemble, **settings: Any) -> Predictor:
    """Makes a predictor from an invariant ensemble; settings as for `plain_predictor`.

    Args:
        model: the ensemble.
        settings: as for `plain_predictor`.
    """
    plain = plain_predictor(model, model.num_classes, **settings)
    outputs = tuple(HeadLogits(*torch.zeros(3, 1, 1)).predictions())
    return replace(plain, outputs=outputs, name_scores=HeadLogits.predictions)


def load_predictor(name_or_path: str, device: torch.device | str = "cpu") -> Predictor:
    """Loads a classifier of any supported kind.

    Args:
        name_or_path: an ensemble (`.safetensors`, from `train-generator classifier`), a checkpoint
            of an MNIST classifier (`.pt`, from `examples/invariant_mnist.py`), or a pretrained
            classifier of torchvision or timm (`resnet50`, `resnet50.IMAGENET1K_V1`,
            `timm/convnext_tiny.fb_in1k`), also with the weights of a file: `resnet50=FILE`.
        device: device for the weights.

    Raises:
        ArgumentError: there is no such classifier.
        FileError: the file does not exist, or weights cannot be downloaded.
        CheckpointError: the file is damaged, or holds something else.
        UsageError: the device does not exist.
        MissingPackageError: timm is needed but not installed.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import MNISTClassifier
        >>> from train_generator.robustness import load_predictor
        >>> path = getfixture("tmp_path") / "digits.pt"
        >>> torch.save({"model": MNISTClassifier().state_dict()}, path)
        >>> load_predictor(str(path)).num_classes
        10
    """
    target = require_device(device)
    suffix = Path(name_or_path).suffix
    if "=" not in name_or_path and suffix == ".safetensors":
        loaded = load_ensemble(name_or_path, target)
        return ensemble_predictor(
            loaded.model,
            classes=loaded.classes,
            mean=loaded.mean,
            std=loaded.std,
            image_size=loaded.image_size,
        )
    if "=" not in name_or_path and suffix in (".pt", ".pth"):
        return _load_mnist(Path(name_or_path), target)
    name, _, file = name_or_path.partition("=")
    return _load_pretrained(name, Path(file).expanduser() if file else None, target)


def _load_mnist(path: Path, device: torch.device) -> Predictor:
    if not path.expanduser().is_file():
        raise FileError(
            f"there is no classifier {path}: pass an ensemble (.safetensors), a checkpoint of "
            "examples/invariant_mnist.py (.pt), or a name such as resnet50"
        )
    try:
        state: Any = unpickle(path.expanduser())
        weights = without_prefixes(
            state.get("modules", state)["model"]
        )  # older files have no "modules"
        require_finite(weights, path.expanduser())
        num_classes = len([value for value in weights.values() if value.dim() == 2][-1])
        with without_memory():  # until the shapes have been compared
            model = MNISTClassifier(num_classes)
        model.load_state_dict(weights, assign=True)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} holds no MNIST classifier, or is cut off: pass a checkpoint of "
            f"examples/invariant_mnist.py, or NAME={path} for weights of torchvision's or timm's "
            f"NAME ({first_line(error)})"
        ) from error
    return plain_predictor(model.float().to(device), num_classes, image_size=32)


class _Whole(nn.Module):
    """A backbone and its own classifier."""

    def __init__(self, backbone: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(self.backbone(images).float(), self.weight, self.bias)


def _load_pretrained(name: str, file: Path | None, device: torch.device) -> Predictor:
    try:
        backbone = make_backbone(name, pretrained=True, file=file)
    except FileError as error:
        if file is not None:
            raise
        reason = first_line(error.__cause__ or error)
        raise FileError(
            f"the weights of {name} cannot be had here ({reason}): repeat where there is a "
            f"network, or pass a file that has them: {name}=FILE"
        ) from error
    if backbone.classifier is None:
        raise ArgumentError(
            f"{file} has no last layer, so that {name} gives no classes: pass a file with all of "
            "the classifier's weights"
        )
    model = _Whole(backbone.network, *backbone.classifier).requires_grad_(False).to(device)
    num_classes = len(model.bias)
    return plain_predictor(
        model,
        num_classes,
        classes=imagenet_names() if num_classes == IMAGENET_CLASSES else None,
        **asdict(backbone.preprocessing),
    )
