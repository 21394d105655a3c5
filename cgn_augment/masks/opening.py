"""Opens maskers of every kind by name, with one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError, FileError
from cgn_augment.generators.checkpoint import require_device
from cgn_augment.generators.pretrained import load_u2net
from cgn_augment.masks.answers import understand_masks
from cgn_augment.masks.checkpoint import bundled_maskers, load_masker
from cgn_augment.masks.colours import GrabCutMasker
from cgn_augment.masks.finding import identify_masker, require_masker, require_masks
from cgn_augment.masks.onnx import IMAGENET, open_onnx
from cgn_augment.masks.segmentation import PREFIX, open_segmentation
from cgn_augment.masks.settings import Channels, MaskSettings
from cgn_augment.types import Masker

GRABCUT = "grabcut"
SIZE = 320
"""Side of the images that a function gets by default, in pixels."""

_U2NET_SIZE = 320
_GRABCUT_SIZE = 112  # here it finds more than in larger images, and is faster

_MODEL = ("mean", "std", "activation")
_NETWORK = ("classes", "weights")

KINDS = (
    f"a masker is a file model.onnx, U2-Net's u2net.pth or .safetensors of train-generator masker; "
    f"{PREFIX}NAME; {GRABCUT}; or a bundled one"
)


@dataclass(frozen=True)
class SizedMasker:
    """A masker together with the images it expects.

    Attributes:
        run: maps normalised images to an answer that `understand_masks` accepts.
        size: side of the square images, in pixels.
        mean: mean of each channel in [0, 1], which is subtracted; None leaves images in [-1, 1].
        std: standard deviation of each channel, by which images are divided.
        fingerprint: identifies the masker.
        device: device for the images.
    """

    run: Callable[[Tensor], Any]
    size: int
    mean: Channels | None
    std: Channels | None
    fingerprint: str
    device: torch.device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Maps images (N, 3, S, S) float32 in [-1, 1] to masks (N, 1, S, S) float32 in [0, 1].

        Raises:
            ArgumentTypeError: the masker's answer is not a mask.
            DataError: the answer has a wrong shape or range.
        """
        images = images.to(self.device)
        if self.mean is not None:
            mean, std = (
                torch.tensor(each, device=self.device)[:, None, None]
                for each in (self.mean, self.std)
            )
            images = (images / 2 + 0.5 - mean) / std
        masks = understand_masks(self.run(images), images, self.run)
        return require_masks(masks, (len(images), 1, *images.shape[2:]))


def open_masker(
    masker: str | Callable[[Tensor], Any], settings: MaskSettings | None = None
) -> SizedMasker:
    """Opens a masker.

    Args:
        masker: the path of a saliency model in ONNX (U2-Net, ISNet, BiRefNet, as from rembg), of
            U2-Net's `u2net.pth`, or of a file of `save_masker`; the name of a bundled masker;
            `torchvision/NAME`, a segmentation network; `grabcut`, which needs no weights; or any
            function of images (N, 3, H, W) float32 in [-1, 1] whose answer `understand_masks`
            accepts.
        settings: its size, normalisation and device.

    Raises:
        ArgumentError: settings do not fit, or lack what this model needs.
        CheckpointError: the file is damaged, or holds something else.
        FileError: no file and no masker has this name.
        MissingPackageError: it needs a package that is not installed.
        UsageError: the device does not exist.

    Examples:
        >>> import torch
        >>> from cgn_augment.masks.opening import open_masker
        >>> masker = open_masker("wildlife-mnist")
        >>> masker.size, masker(torch.zeros(2, 3, 32, 32)).shape
        (32, torch.Size([2, 1, 32, 32]))
    """
    settings = settings or MaskSettings()
    device = require_device(settings.device)
    if not isinstance(masker, str):
        settings.refuse((*_MODEL, *_NETWORK), "a function")
        function = require_masker(cast(Masker, masker))
        size = settings.size or int(getattr(function, "size", SIZE))
        name = identify_masker(function)
        if not hasattr(function, "fingerprint"):
            name = getattr(function, "__qualname__", name)  # all functions have the same type
        return SizedMasker(function, size, None, None, name, device)
    if masker.startswith(PREFIX):
        settings.refuse(_MODEL, masker)
        network, size, name = open_segmentation(masker, settings.classes, settings.weights, device)
        return SizedMasker(network, settings.size or size, *IMAGENET, name, device)
    settings.refuse(_NETWORK, masker)
    suffix = Path(masker).suffix
    if suffix == ".onnx":
        model = open_onnx(Path(masker).expanduser(), settings, device)
        return SizedMasker(
            model, model.size, model.mean, model.std, model.fingerprint, torch.device("cpu")
        )
    settings.refuse(_MODEL, masker)
    if masker == GRABCUT:
        cut, size = GrabCutMasker(), settings.size or _GRABCUT_SIZE
        return SizedMasker(
            cut, settings.size or _GRABCUT_SIZE, None, None, GRABCUT, torch.device("cpu")
        )
    if suffix in (".pth", ".pt"):
        u2net = load_u2net(masker).to(device)
        size = settings.size or _U2NET_SIZE
        return SizedMasker(u2net, size, *IMAGENET, identify_masker(u2net), device)
    if suffix != ".safetensors" and masker not in bundled_maskers():
        raise FileError(
            f"there is no masker {masker!r}: {KINDS} ({', '.join(bundled_maskers()) or 'none'})"
        )
    unet = load_masker(masker, device=device)
    size = settings.size or unet.size
    if size % unet.stride:
        raise ArgumentError(f"size of {masker} must be a multiple of {unet.stride}, got {size}")
    return SizedMasker(unet, size, None, None, unet.fingerprint, device)
