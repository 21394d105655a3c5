"""Image classifiers of torchvision and timm, split into a backbone and its last layer."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision import models

import train_generator
from cgn_augment.checks import require_package
from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.files import first_line
from cgn_augment.generators.tensors import (
    read_safetensors,
    require_finite,
    unpickle,
    without_prefixes,
)
from train_generator.classifier.resnet10 import ResNet10

TIMM = "timm/"

_AUXILIARY = ("AuxLogits", "aux1", "aux2")  # second classifiers of Inception, for training only


@dataclass(frozen=True)
class Preprocessing:
    """The form in which images must arrive.

    Attributes:
        mean: mean of each channel, for images in [0, 1]; subtracted.
        std: standard deviation of each channel; divided by.
        image_size: height and width of the images that the weights were trained on, in pixels.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    image_size: int = 224


OWN: dict[str, tuple[Callable[[], nn.Module], Preprocessing]] = {
    "resnet10_w32": (partial(ResNet10, 32), Preprocessing(image_size=48)),
}
"""Classifiers of this package, without pretrained weights."""


@dataclass(frozen=True)
class Backbone:
    """A classifier without its last layer.

    Attributes:
        network: maps images (N, 3, H, W) to features (N, num_features).
        num_features: inputs of the removed layer.
        classifier: weight (C, num_features) and bias (C,) of that layer, both float32, if trained;
            else None.
        preprocessing: preprocessing of the images.
        origin: origin of the weights, in words.
        layer: path of the removed layer, which is now an identity.
    """

    network: nn.Module
    num_features: int
    classifier: tuple[Tensor, Tensor] | None
    preprocessing: Preprocessing
    origin: str
    layer: str


def make_backbone(name: str, *, pretrained: bool = True, file: Path | None = None) -> Backbone:
    """Builds a classifier and removes its last linear layer.

    Args:
        name: a torchvision name such as "resnet50", with or without the name of its weights
            ("resnet50.IMAGENET1K_V1"; the best ones by default); a timm name after "timm/", such as
            "timm/convnext_tiny.fb_in1k"; or "resnet10_w32", a small network for small photographs,
            without pretrained weights (see `ResNet10`).
        pretrained: whether to use the library's weights, downloaded if necessary. Otherwise torch's
            global generator draws new ones.
        file: instead of the library's weights, a state dict of the same network: .pth of
            `torch.save` or .safetensors. It may lack the last layer.

    Raises:
        ArgumentError: the name is unknown, or the network does not end in a linear layer.
        FileError: the weights cannot be downloaded, or the file does not exist.
        CheckpointError: the file is damaged, or holds another network.
        MissingPackageError: timm is not installed.

    Examples:
        >>> from train_generator.classifier.backbones import make_backbone
        >>> make_backbone("shufflenet_v2_x0_5", pretrained=False).num_features
        1024
    """
    downloads = pretrained and file is None
    network, weights = _build(name, downloads)
    path, layer = _find_classifier(name, network)
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    last: Mapping[str, Tensor] = layer.state_dict() if downloads else {}
    if file is not None:
        last, weights = _fill(network, path, layer, file), f"weights of {file}"
    known = None
    if "weight" in last:
        weight = last["weight"].float()
        known = weight, last.get("bias", torch.zeros(len(weight))).float()
    return Backbone(
        network, layer.in_features, known, find_preprocessing(name), f"{name}, {weights}", path
    )


def find_preprocessing(name: str) -> Preprocessing:
    """Returns the preprocessing of a backbone, without building it.

    Args:
        name: see `make_backbone`.

    Raises:
        ArgumentError: the name is unknown.
        MissingPackageError: timm is not installed.

    Examples:
        >>> from train_generator.classifier.backbones import find_preprocessing
        >>> find_preprocessing("inception_v3").image_size
        299
    """
    if name.startswith(TIMM):
        timm = _import_timm(name)
        config = timm.get_pretrained_cfg(name.removeprefix(TIMM)).to_dict()
        data = timm.data.resolve_data_config(pretrained_cfg=config)
        return Preprocessing(tuple(data["mean"]), tuple(data["std"]), data["input_size"][-1])
    if name in OWN:
        return OWN[name][1]
    weights = _find_weights(name)
    preset: Any = None if weights is None else weights.transforms()
    if preset is None or not hasattr(preset, "mean"):
        return Preprocessing()
    return Preprocessing(tuple(preset.mean), tuple(preset.std), int(preset.crop_size[0]))


def _find_weights(full_name: str) -> Any:
    """Returns torchvision's weights with this name, or None if it has none."""
    name, _, tag = full_name.partition(".")
    known = models.list_models(module=models)  # of images only, not of the subpackages
    if name not in known:
        raise ArgumentError(
            f"torchvision has no image classifier {name!r}{_suggest(name, [*known, *OWN])}: a "
            f"backbone is the name of one, such as resnet50; timm/NAME; or {', '.join(OWN)}"
        )
    kinds = models.get_model_weights(name)
    wanted = next((kind for kind in kinds if kind.name == tag), None)
    if tag and wanted is None:
        raise ArgumentError(
            f"{name} has the weights {', '.join(kind.name for kind in kinds) or 'none'}, not {tag}"
        )
    return wanted or (kinds.DEFAULT if len(kinds) else None)


def _build(full_name: str, pretrained: bool) -> tuple[nn.Module, str]:
    """Builds a classifier, and describes the origin of its weights."""
    build: Callable[[], Any]
    library: Any
    weights: Any = None
    if full_name.startswith(TIMM):
        library, name = _import_timm(full_name), full_name.removeprefix(TIMM)
        build = partial(library.create_model, name, pretrained=pretrained)
        known = library.models.is_model_pretrained(name)
        place = f"https://huggingface.co/timm/{name}"
    elif full_name in OWN:
        library, name, known, place = train_generator, full_name, False, ""
        build = OWN[name][0]
    else:
        library, name, weights = torchvision, full_name.partition(".")[0], _find_weights(full_name)
        build = partial(models.get_model, name, weights=weights if pretrained else None)
        known, place = weights is not None, str(getattr(weights, "url", ""))
    network: Any
    if not pretrained:
        network, described = build(), "new weights"
    elif not known:
        raise ArgumentError(
            f"{library.__name__} has no weights for {name}: pass pretrained=False, or a file"
        )
    else:
        try:
            network = build()
        except Exception as error:  # each library and its transport have their own errors
            raise FileError(
                f"the weights of {full_name} cannot be had here ({first_line(error)}): repeat "
                f"where there is a network; or get them ({place}) and pass the file as "
                "backbone_file; or say pretrained=False for new ones"
            ) from error
        tag = weights.name if library is torchvision else network.pretrained_cfg.get("tag")
        described = f"{library.__name__} {library.__version__}'s weights {tag or 'of its default'}"
    for auxiliary in _AUXILIARY:
        if library is torchvision and hasattr(network, auxiliary):
            setattr(network, auxiliary, None)
            network.aux_logits = False
    return network, described


def _import_timm(full_name: str) -> Any:
    """Returns timm if it knows the model."""
    need = f"{full_name} is a network of the package timm, which is not installed"
    instead = "take one of torchvision's, such as resnet50"
    timm: Any = require_package("timm", "timm", need, instead)
    name = full_name.removeprefix(TIMM)
    if not timm.is_model(name):
        raise ArgumentError(f"timm has no model {name!r}{_suggest(name, timm.list_models())}")
    return timm


def _find_classifier(name: str, network: nn.Module) -> tuple[str, nn.Linear]:
    """Returns path and layer of the last linear layer, which makes the scores."""
    linear = {path: part for path, part in network.named_modules() if isinstance(part, nn.Linear)}
    if name.startswith(TIMM):
        last = network.get_classifier()  # type: ignore[operator]
        linear = {path: part for path, part in linear.items() if part is last}
    if not linear:
        raise ArgumentError(
            f"{name} does not end in one linear layer, whose place the three heads could take: "
            "take another backbone"
        )
    return list(linear.items())[-1]


def _fill(network: nn.Module, path: str, layer: nn.Linear, file: Path) -> dict[str, Tensor]:
    """Fills a network, except its last layer, from a file; returns that layer's weights there."""
    state = {
        name: value
        for name, value in _read(file).items()
        if not name.startswith(tuple(f"{auxiliary}." for auxiliary in _AUXILIARY))
    }
    last = {
        name: state.pop(f"{path}.{name}")
        for name in ("weight", "bias")
        if f"{path}.{name}" in state
    }
    try:
        load_state(network, state)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{file} holds another network than the backbone ({reason}): pass the file that "
            "belongs to it"
        ) from error
    if "weight" in last and last["weight"].shape[1:] != (layer.in_features,):
        raise CheckpointError(
            f"{file}: {path}.weight is {tuple(last['weight'].shape)} and the backbone has "
            f"{layer.in_features} features: pass the file that belongs to it"
        )
    return last


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fills a network with tensors that do not state the version of torch's layers.

    Some networks refuse such a state dict; it is taken to have the installed version.
    """
    marked = OrderedDict(state)
    marked._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(marked)


def _read(file: Path) -> dict[str, Tensor]:
    """Returns the tensors of a state dict, even if it lies inside a training checkpoint."""
    if not file.is_file():
        raise FileError(f"there is no file {file} of weights for the backbone")
    if file.suffix == ".safetensors":
        what = "weights of the backbone"
        return without_prefixes(read_safetensors(file, what=what, remedy="get it again")[0])
    try:
        state: Any = unpickle(file)
        state = next((state[key] for key in ("state_dict", "model") if key in state), state)
        tensors = without_prefixes(state)
        if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError("there is more than tensors in it")
    except Exception as error:
        raise CheckpointError(
            f"{file} holds no state dict of a network, or is cut off: get it again "
            f"({first_line(error)})"
        ) from error
    require_finite(tensors, file)
    return tensors


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 3)
    return f" (there are {', '.join(close)})" if close else ""
