"""The CGN for ImageNet: three BigGAN generators, and a U2-Net that turns images into masks.

Paper, section 3.2. The fourth BigGAN of the published code, which gives the training its targets,
is not part of this network, since drawing does not need it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.generators.biggan import BigGAN, BigGANConfig
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.generators.graphs import Graphs
from cgn_augment.generators.layout import put_channels_last
from cgn_augment.generators.mechanisms import CGNetwork
from cgn_augment.generators.small import MASK_MAX, MASK_MIN
from cgn_augment.generators.truncation import TruncationLookup, draw_truncated, find_rows
from cgn_augment.generators.u2net import LEAST_SIZE, ConvNormReLU, U2Net
from cgn_augment.types import FACTORS


class ImageNetCGN(CGNetwork):
    """Three mechanisms that draw a mask, a foreground and a background of 128, 256 or 512 pixels.

    Args:
        biggan: sizes of the three generators, as a `BigGANConfig` or its arguments; by default
            those of the published 256-pixel network.
        unet_width: see `U2Net`.
        truncation: in (0, 1]; scales the noise and selects the batch statistics. A smaller one
            gives more typical, less diverse images. The published CGN is trained at 1.
        truncation_lookup: "exact", or "published" for the rows of statistics that the published
            code reads; see `find_rows`. At truncations 0.5 and 1 they are the same.
        folded: whether the weights were folded before they were saved (see `freeze`).

    Raises:
        ArgumentError: sizes do not fit a network, truncation is outside (0, 1], or lookup is
            unknown.

    Attributes:
        shared_noise: True; one noise vector goes to all three mechanisms, as in the paper.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import ImageNetCGN
        >>> layers = [(False, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)]
        >>> sizes = dict(num_classes=5, noise_dim=8, channel_width=4, layers=layers, attention_at=2)
        >>> cgn = ImageNetCGN(sizes, unet_width=4, truncation=0.5).freeze()
        >>> noise = cgn.draw_noise(2, torch.Generator().manual_seed(0))
        >>> cgn.shape(noise, torch.tensor([0, 4])).shape
        torch.Size([2, 1, 32, 32])
    """

    architecture = "imagenet"
    shared_noise = True

    def __init__(
        self,
        biggan: BigGANConfig | Mapping[str, Any] | None = None,
        *,
        unet_width: int = 64,
        truncation: float = 1.0,
        truncation_lookup: TruncationLookup = "exact",
        folded: bool = False,
    ) -> None:
        super().__init__()
        self.biggan = biggan if isinstance(biggan, BigGANConfig) else BigGANConfig(**(biggan or {}))
        if self.biggan.image_size < LEAST_SIZE:
            raise ArgumentError(
                f"the layers make images of {self.biggan.image_size} pixels, and U2-Net needs "
                f"{LEAST_SIZE} or more: let more blocks double the size"
            )
        self.num_classes, self.image_size = self.biggan.num_classes, self.biggan.image_size
        self.noise_dim = self.biggan.noise_dim
        self.truncation_lookup: TruncationLookup = truncation_lookup
        self.set_truncation(truncation)
        self.f_shape = BigGAN(self.biggan)
        # Without memory (weights come later) a copy is faster to make than a new network.
        without = self.f_shape.embeddings.weight.is_meta
        self.f_text = copy.deepcopy(self.f_shape) if without else BigGAN(self.biggan)
        self.f_bg = copy.deepcopy(self.f_shape) if without else BigGAN(self.biggan)
        self.u2net = U2Net(unet_width).eval().requires_grad_(False)
        self._folded = False
        self._graphs: Graphs | None = None
        if folded:
            self._fold()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this network."""
        return {
            "biggan": asdict(self.biggan),
            "unet_width": self.u2net.width,
            "truncation": self.truncation,
            "truncation_lookup": self.truncation_lookup,
            "folded": self._folded,
        }

    @property
    def fingerprint(self) -> str:
        """Identifies weights and truncation.

        The weights are hashed when the network is frozen, before folding, so the result is the same
        on every machine.
        """
        weights = super().fingerprint
        if (self.truncation, self.truncation_lookup) == (1.0, "exact"):
            return weights
        return f"{weights}-{self.truncation_lookup}-{self.truncation}"

    def set_truncation(self, truncation: float, lookup: TruncationLookup | None = None) -> None:
        """Changes the truncation and, if `lookup` is given, how its statistics are looked up.

        Args:
            truncation: in (0, 1].
            lookup: "exact" or "published"; None keeps the current one.

        Raises:
            ArgumentError: truncation is outside (0, 1], or lookup is unknown.
        """
        lookup = self.truncation_lookup if lookup is None else lookup
        find_rows(truncation, self.biggan.num_statistics, lookup)
        self.truncation, self.truncation_lookup = float(truncation), lookup

    def freeze(self, *, fold: bool = True) -> Self:
        """Prepares the network for drawing: permanent eval mode, no gradients.

        Args:
            fold: folds spectral norms and the batch statistics of U2-Net into the weights, in
                place, instead of applying them at every call, and stores the weights channels last.
                Images change only by rounding. A folded network cannot be trained further.
                `save_cgn` writes it folded, and the file has another fingerprint.
        """
        self._hash = self._hash or hash_weights(self)
        self.eval().requires_grad_(False)
        if fold:
            self._fold()
        return self

    def use_graphs(self, enabled: bool = True, *, compiled: bool = False) -> Self:
        """Turns drawing with CUDA graphs on or off; no effect on the CPU.

        A mechanism then takes one launch. This pays off at small batches, where launching its
        several hundred kernels takes longer than running them. It is recorded when a batch size
        comes for the second time, and again when the weights, their device or dtype, or the
        truncation change. Images stay the same. Recordings hold GPU memory for their batch size;
        `use_graphs(False)` frees it. Copies of this network have no recordings.

        Args:
            enabled: whether to use CUDA graphs.
            compiled: whether to use kernels of torch.compile, which the first call waits for; they
                save passes over memory, mostly at large batches.

        Raises:
            ArgumentError: the network is not folded (see `freeze`).
        """
        if enabled and not self._folded:
            raise ArgumentError("use_graphs is for a folded network: call freeze() first")
        self._graphs = Graphs() if enabled else None
        for factor in FACTORS:
            self._biggan(factor).compiled = enabled and compiled
        return self

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode unless frozen; U2-Net and the generators stay in eval mode."""
        super().train(mode)
        self.u2net.eval()
        return self

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Draws normal noise, truncated at ±2, times the truncation.

        It is drawn on the CPU from `generator` alone, without rejection, so it is the same on every
        device.

        Args:
            num: number of vectors.
            generator: a CPU generator.

        Returns:
            (num, noise_dim) float32 on the device of the weights.
        """
        noise = draw_truncated(num, self.noise_dim, generator) * self.truncation
        return noise.to(self.device, non_blocking=True)

    def premask(self, noise: Tensor, y: Tensor) -> Tensor:
        """Runs the shape mechanism without U2-Net; arguments and errors as for `shape`.

        Args:
            noise: (N, noise_dim) float32.
            y: (N,) int64 classes.

        Returns:
            (N, 3, H, W) float32 image in [-1, 1].
        """
        return self._draw("shape", self._condition("shape", noise, y))

    def mask(self, images: Tensor) -> Tensor:
        """Finds the object in images with U2-Net.

        Args:
            images: (N, 3, H, W) float in [-1, 1].

        Returns:
            (N, 1, H, W) float32 mask in [1e-4, 0.9999]; 1 is object.
        """
        found: Tensor = self.u2net(images.to(self.f_shape.embeddings.weight.dtype))
        return found.float().clamp(MASK_MIN, MASK_MAX).contiguous()

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Returns textures unchanged: this CGN draws whole images, which are not moved.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].
            generator: not used.
        """
        return images

    def _condition(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        return self._biggan(factor).condition(noise, y)

    def _run(self, factor: str, condition: Tensor) -> Tensor:
        if self._graphs is None:
            return self._run_eagerly(factor, condition)
        rows = find_rows(self.truncation, self.biggan.num_statistics, self.truncation_lookup)
        read = self._biggan(factor).make_lean(rows, condition.is_cuda).tensors
        if factor == "shape":
            read = [*read, *self.u2net.parameters()]
        name = factor, self.truncation, self.truncation_lookup
        return self._graphs.run(name, partial(self._run_eagerly, factor), condition, read)

    def _run_eagerly(self, factor: str, condition: Tensor) -> Tensor:
        images = self._draw(factor, condition)
        return self.mask(images) if factor == "shape" else images

    def _draw(self, factor: str, condition: Tensor) -> Tensor:
        biggan = self._biggan(factor)
        return biggan.draw(condition, self.truncation, self.truncation_lookup).contiguous()

    def _biggan(self, factor: str) -> BigGAN:
        return {"shape": self.f_shape, "texture": self.f_text, "background": self.f_bg}[factor]

    def _fold(self) -> None:
        if self._folded:
            return
        for part in self.modules():
            if isinstance(part, BigGAN | ConvNormReLU):
                part.fold()
        put_channels_last(self)
        self._folded = True
