"""Saliency models in ONNX, such as those of rembg, run by onnxruntime."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgn_augment.checks import require_package
from cgn_augment.errors import (
    ArgumentError,
    CheckpointError,
    FileError,
    UsageError,
)
from cgn_augment.files import first_line
from cgn_augment.masks.settings import Activation, Channels, MaskSettings

IMAGENET: tuple[Channels, Channels] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST_PIXELS = 2**25
"""Pixels per call, 32 images of 1024x1024: the file says how many, and they are allocated."""

_CENTRED: tuple[Channels, Channels] = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _Known:
    mean: Channels | None = None
    std: Channels | None = None
    size: int | None = None
    activation: Activation = "none"


_U2NET = _Known(*IMAGENET, 320)
_BY_NAME = dict.fromkeys(("u2net", "u2netp", "u2net_human_seg", "silueta"), _U2NET)
_BY_START = {
    "isnet": _Known(*_CENTRED, 1024),
    "birefnet": _Known(*IMAGENET, 1024, "sigmoid"),  # its file ends before the sigmoid
    "bria-rmbg-2": _Known(*IMAGENET, 1024),
}


@dataclass(frozen=True)
class OnnxModel:
    """A model that marks objects.

    Attributes:
        session: session of onnxruntime.
        input_name: name of its input.
        batch: number of images per call; None allows any number.
        size: side of its images, in pixels.
        mean: mean of each channel in [0, 1], which is subtracted.
        std: standard deviation of each channel, by which images are divided.
        activation: turns its output into masks in [0, 1].
        path: the file, for errors.
        fingerprint: twelve hexadecimal digits of a hash of the file.
    """

    session: Any
    input_name: str
    batch: int | None
    size: int
    mean: Channels
    std: Channels
    activation: Activation
    path: Path
    fingerprint: str

    def __call__(self, images: Tensor) -> Tensor:
        """Maps normalised images (N, 3, S, S) float32 to masks (N, 1, S, S), not rescaled.

        Raises:
            CheckpointError: the model does not accept such images, or does not return masks.
        """
        parts = torch.split(images, self.batch or max(len(images), 1))
        return torch.cat([self._run(part) for part in parts])

    def _run(self, images: Tensor) -> Tensor:
        lacks = (self.batch or len(images)) - len(images)
        given = torch.cat([images, images.new_zeros(lacks, *images.shape[1:])]).numpy()
        try:
            answer = self.session.run(None, {self.input_name: given})[0]
        except Exception as error:  # onnxruntime's errors have no common class
            raise CheckpointError(
                f"{self.path} does not take images {given.shape}: pass size ({first_line(error)})"
            ) from error
        masks = answer if isinstance(answer, np.ndarray) else np.empty(())
        if masks.shape[:1] != given.shape[:1] or masks.dtype.kind not in "bfiu":
            raise CheckpointError(
                f"{self.path} answers images {given.shape} with {type(answer).__name__} "
                f"{masks.shape} {masks.dtype}, which is no mask for each: take a model of saliency"
            )
        found = torch.from_numpy(masks[: len(images)]).float()
        if self.activation == "sigmoid":
            return found.sigmoid()
        if found.numel() and not -1e-3 <= float(found.min()) <= float(found.max()) <= 1 + 1e-3:
            raise ArgumentError(
                f"{self.path} answers with values in [{float(found.min()):.3g}, "
                f"{float(found.max()):.3g}], which are no masks: pass activation sigmoid if they "
                "are logits"
            )
        return found


def open_onnx(path: Path, settings: MaskSettings, device: torch.device) -> OnnxModel:
    """Opens a model that takes images (N, 3, S, S); its first output is the masks.

    Args:
        path: the file. Normalisation and output are known for u2net, u2netp, u2net_human_seg,
            silueta, isnet…, birefnet… and bria-rmbg-2….
        settings: size, mean, std and activation of other models; they override what is known.
        device: the CPU, or a GPU if onnxruntime-gpu is installed.

    Raises:
        ArgumentError: the normalisation or the size of its images is unknown, or the model does not
            accept the size.
        CheckpointError: the file is damaged, or its model does not take images, or many at once.
        FileError: the file does not exist.
        MissingPackageError: onnxruntime is not installed.
        UsageError: onnxruntime has no such device.
    """
    onnxruntime: Any = require_package("onnxruntime", "onnx", f"{path.name} needs onnxruntime")
    if not path.is_file():
        raise FileError(f"there is no file {path}, which should be a saliency model in ONNX")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type)
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(
            f"this onnxruntime does not run on {device}: pass device cpu, or install "
            "onnxruntime-gpu in its place"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its warnings concern the model's construction
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
        (given, *_) = session.get_inputs()
        batch, channels, *sides = given.shape
    except Exception as error:  # onnxruntime's errors have no common class
        raise CheckpointError(
            f"{path} cannot be read as a model in ONNX: copy it again ({first_line(error)})"
        ) from error
    if len(sides) != 2 or (channels not in (3, None) and not isinstance(channels, str)):
        raise CheckpointError(f"{path} takes {given.shape}, where images (N, 3, S, S) are meant")
    known = _known(path.stem)
    mean, std = settings.mean or known.mean, settings.std or known.std
    if mean is None or std is None:
        raise ArgumentError(
            f"it is not known how images for {path.name} are normalised: pass mean and std, such "
            f"as {list(IMAGENET[0])} and {list(IMAGENET[1])}, as its makers say"
        )
    fixed = {side for side in sides if isinstance(side, int) and side > 0}
    if len(fixed) > 1 or (settings.size and fixed - {settings.size}):
        wanted = "x".join(map(str, sides))
        raise ArgumentError(f"{path} takes images of {wanted} pixels alone: leave size out")
    size = settings.size or next(iter(fixed), None) or known.size
    if size is None:
        raise ArgumentError(f"it is not known how large images for {path.name} are: pass size")
    batch = batch if isinstance(batch, int) and batch > 0 else None
    if not 0 < (batch or 1) * size**2 <= _MOST_PIXELS:
        raise CheckpointError(
            f"{path} takes {batch or 1} images of {size}x{size} pixels at once, which is more than "
            "any model of saliency: take another"
        )
    return OnnxModel(
        session=session,
        input_name=given.name,
        batch=batch,
        size=size,
        mean=mean,
        std=std,
        activation=settings.activation or known.activation,
        path=path,
        fingerprint=_hash(path),
    )


def _known(stem: str) -> _Known:
    name = stem.lower()
    found = [known for start, known in _BY_START.items() if name.startswith(start)]
    return _BY_NAME.get(name) or (found[0] if found else _Known())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
