"""Base of the small and the ImageNet CGN: three mechanisms that run alone (section 2)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from cgn_augment.checks import require_choice
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import check_classes
from cgn_augment.generators.fingerprint import hash_weights
from cgn_augment.types import FACTORS


def check_inputs(noise: Tensor, y: Tensor, noise_dim: int, num_classes: int) -> None:
    """Raises for noise that is not (N, noise_dim), and for classes that `check_classes` refuses."""
    if noise.dim() != 2 or noise.shape[1] != noise_dim:
        raise ArgumentError(f"noise must have the shape (N, {noise_dim}), got {tuple(noise.shape)}")
    check_classes(y, len(noise), num_classes, "noise vectors")


class CGNetwork(nn.Module):
    """Three mechanisms; a subclass says how noise and class are joined, and what runs."""

    def __init__(self) -> None:
        super().__init__()
        self._hash: str | None = None  # of the weights, set by freezing

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def frozen(self) -> bool:
        """Whether `freeze` was called."""
        return self._hash is not None

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of a hash of the weights; fixed once the network is frozen."""
        return self._hash or hash_weights(self)

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode, unless the network is frozen."""
        return super().train(mode and not self.frozen)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        """Runs the shape mechanism alone.

        Args:
            noise: (N, noise_dim) float32.
            y: (N,) int64 classes.

        Returns:
            (N, 1, H, W) float32 mask in [1e-4, 0.9999]; 1 is object.

        Raises:
            ArgumentError: noise or classes have a wrong shape, or a class does not exist.
            ArgumentTypeError: classes are not integers.
        """
        return self._run("shape", self._condition("shape", noise, y))

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        """Runs the texture mechanism alone; arguments and errors as for `shape`.

        Returns:
            (N, 3, H, W) float32 foreground in [-1, 1], before `shuffle`.
        """
        return self._run("texture", self._condition("texture", noise, y))

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        """Runs the background mechanism alone; arguments and errors as for `shape`.

        Returns:
            (N, 3, H, W) float32 background in [-1, 1], before `shuffle`.
        """
        return self._run("background", self._condition("background", noise, y))

    def mix(self, factor: str, noise: Tensor, first: Tensor, second: Tensor, w: Tensor) -> Tensor:
        """Runs the mechanism of a factor between two classes.

        Args:
            factor: shape, texture or background.
            noise: (N, noise_dim) float32.
            first: (N,) int64 classes.
            second: (N,) int64 classes.
            w: (N,) float32 weights of the second class's embedding in [0, 1].

        Returns:
            The result of the mechanism; exactly that of `first` at 0 and of `second` at 1.

        Raises:
            ArgumentError: the factor does not exist; otherwise as for `shape`.
            ArgumentTypeError: classes are not integers.
        """
        require_choice("factor", factor, FACTORS)
        ends = self._condition(factor, noise, first), self._condition(factor, noise, second)
        return self._run(factor, torch.lerp(*ends, w[:, None].to(ends[0])))

    def _condition(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        """Joins noise (N, noise_dim) and the embeddings of classes (N,) for a mechanism."""
        raise NotImplementedError

    def _run(self, factor: str, condition: Tensor) -> Tensor:
        """Runs a mechanism on what `_condition` returns."""
        raise NotImplementedError
