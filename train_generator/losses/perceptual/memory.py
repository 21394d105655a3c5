"""Remembers what the perceptual loss needs of real images, which come again in every epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from train_generator.losses.perceptual.features import PerceptualFeatures

SHARE = 0.5
"""Of the memory that is free, which the memory may take at most."""


class GramMemory:
    """Gives the Gram matrices of real images, and runs the network only on those it has not seen.

    It keeps, for each image and each block with a weight, the smaller of two: the lower triangle of
    the Gram matrix, or the feature map. Both give the very matrix that the network gives. A batch
    goes through the network as a whole unless all of its images are known, so that what was seen
    before changes no result. Memory is taken as images come.

    Args:
        features: on the CPU, and not changed any more.
        weights: one number of 0 or more for each block, as `perceptual_loss` takes them.
        num_images: how many images to remember; those that come later are not.

    Example:
        >>> import torch
        >>> from train_generator.losses.perceptual import GramMemory, random_vgg16_features
        >>> memory = GramMemory(random_vgg16_features(seed=0), (1, 0, 0, 0), num_images=2)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> (first,), (again,) = memory(images), memory(images)
        >>> first.shape, torch.equal(first, again), len(memory)
        (torch.Size([2, 64, 64]), True, 2)
    """

    def __init__(
        self, features: PerceptualFeatures, weights: Sequence[float], num_images: int
    ) -> None:
        self.features, self.num_images = features, num_images
        self.chosen = [k for k, weight in enumerate(weights) if weight > 0]
        self._rows: dict[bytes, int] = {}
        self._stores: list[Tensor] = []
        self._shapes: list[torch.Size] = []

    def __len__(self) -> int:
        """How many images are known."""
        return len(self._rows)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Returns the Gram matrices of the blocks with a weight, (B, C_k, C_k) each.

        Args:
            images: (B, 3, H, W) float32 in [-1, 1], all of one size.
        """
        keys = [hashlib.blake2b(image.numpy().tobytes()).digest() for image in images]
        if all(key in self._rows for key in keys):
            return self._recall([self._rows[key] for key in keys])
        maps = self.features(images, self.chosen[-1] + 1, fast=True)
        maps = [maps[k] for k in self.chosen]
        grams = [_multiply(each) for each in maps]
        self._remember(keys, maps, grams)
        return grams

    def _remember(self, keys: list[bytes], maps: list[Tensor], grams: list[Tensor]) -> None:
        new = {key: number for number, key in enumerate(keys) if key not in self._rows}
        numbers = list(new.values())[: self.num_images - len(self)]
        first = len(self)
        values = [
            (gram[:, *_triangle(gram)] if _keeps_gram(each.shape) else each.permute(0, 2, 3, 1))
            for each, gram in zip(maps, grams, strict=True)
        ]
        if not self._stores:
            self._shapes = [each.shape for each in maps]
            self._stores = [each.new_empty(self.num_images, *each.shape[1:]) for each in values]
        for store, each in zip(self._stores, values, strict=True):
            store[first : first + len(numbers)] = each[numbers]
        for number in numbers:
            self._rows[keys[number]] = len(self._rows)

    def _recall(self, rows: list[int]) -> list[Tensor]:
        grams = []
        for store, shape in zip(self._stores, self._shapes, strict=True):
            values = store[rows]
            if _keeps_gram(shape):
                grams.append(_unpack(values, shape[1]))
            else:
                grams.append(_multiply(values.permute(0, 3, 1, 2)))
        return grams


def memory_fits(features: PerceptualFeatures, weights: Sequence[float], images: Tensor) -> bool:
    """Says whether there is room for a `GramMemory` of all images.

    That is so on a CPU where it takes less than half of the memory that is free. With VGG-16, an
    image of 32x32 takes 66 to 107 kB at the published weights: 3.3 to 5.3 GB for 50 000 images.

    Args:
        features: of the loss.
        weights: one number of 0 or more for each block.
        images: (N, 3, H, W) float32, all that are to be remembered.

    Example:
        >>> import torch
        >>> from train_generator.losses.perceptual import memory_fits, random_vgg16_features
        >>> memory_fits(random_vgg16_features(seed=0), (0, 0, 0, 0), torch.zeros(2, 3, 32, 32))
        False
    """
    chosen = [k for k, weight in enumerate(weights) if weight > 0]
    devices = {images.device.type, next(features.parameters()).device.type}
    if not chosen or devices != {"cpu"}:
        return False
    with torch.no_grad():
        maps = features(images[:1], chosen[-1] + 1)
    num_bytes = sum(4 * _count(maps[k].shape) for k in chosen) * len(images)
    return num_bytes < SHARE * psutil.virtual_memory().available


def _multiply(maps: Tensor) -> Tensor:
    """Returns Gram matrices as `gram_matrix` does, in one pass over memory."""
    flat = maps.flatten(2)
    nothing = flat.new_zeros(()).expand(len(flat), flat.shape[1], flat.shape[1])
    return torch.baddbmm(nothing, flat, flat.mT, beta=0, alpha=1 / maps[0].numel())


def _count(shape: torch.Size) -> int:
    """How many numbers an image takes."""
    return min(shape[1] * (shape[1] + 1) // 2, shape[1:].numel())


def _keeps_gram(shape: torch.Size) -> bool:
    return _count(shape) < shape[1:].numel()


def _triangle(gram: Tensor) -> Tensor:
    return torch.tril_indices(gram.shape[1], gram.shape[1])


def _unpack(values: Tensor, num_channels: int) -> Tensor:
    """Takes lower triangles (B, C * (C + 1) / 2) to symmetric matrices (B, C, C)."""
    rows, columns = torch.tril_indices(num_channels, num_channels)
    index = torch.empty(num_channels, num_channels, dtype=torch.int64)
    index[rows, columns] = index[columns, rows] = torch.arange(len(rows))
    return values[:, index.flatten()].unflatten(1, (num_channels, num_channels))
