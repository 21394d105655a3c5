"""Frozen 3x3 convolutions of small images with a quarter of the multiplications.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016: F(4x4, 3x3), where
each tile of 4x4 outputs takes 36 products instead of 144. In float32 results differ from those of a
plain convolution by some 2e-6 of their size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE, WINDOW = 4, 6
NUM_TILES = 128
"""Of a chunk, so that what a chunk needs stays in the processor's cache."""

LEAST_CHANNELS = 64

INPUT = torch.tensor(
    [
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ],
    dtype=torch.float32,
)
WEIGHT = torch.tensor(
    [
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ],
    dtype=torch.float64,
)
OUTPUT = torch.tensor(
    [(1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)],
    dtype=torch.float32,
)


class FrozenConv2d(nn.Conv2d):
    """A convolution whose weights get no gradient, fast on a CPU where images are small.

    It has the arguments and the state dict of `nn.Conv2d`. The fast way is taken where it is asked
    for, in float32 on a CPU, with frozen weights of 64 channels or more, on images whose sides are
    multiples of 4, of up to 2048 pixels; otherwise this is `nn.Conv2d`.

    Example:
        >>> import torch
        >>> from train_generator.losses.perceptual.winograd import FrozenConv2d
        >>> layer = FrozenConv2d(64, 64, 3, padding=1).requires_grad_(False)
        >>> images = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(layer(images, fast=True), layer(images), atol=1e-4)
        True
    """

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> FrozenConv2d:
        """Returns a layer with the very parameters of another one, without a stride or dilation."""
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            padding=conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
            device="meta",
        )
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer

    def forward(self, images: Tensor, fast: bool = False) -> Tensor:
        """Convolves (B, C, H, W)."""
        if not (fast and self._can_be_fast(images)):
            return super().forward(images)
        result: Tensor = _Convolve.apply(images, self.bias, *self._transformed())
        return result

    def _can_be_fast(self, images: Tensor) -> bool:
        weight = self.weight
        height, width = images.shape[-2:]
        return (
            images.device.type == weight.device.type == "cpu"
            and images.dtype == weight.dtype == torch.float32
            and images.dim() == 4
            and images.shape[1] == self.in_channels
            and not any(parameter.requires_grad for parameter in self.parameters())
            and self.kernel_size == (3, 3)
            and self.padding == self.stride == self.dilation == (1, 1)
            and self.groups == 1
            and min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
            and height % TILE == width % TILE == 0
            and height * width <= NUM_TILES * TILE**2
        )

    def _transformed(self) -> tuple[Tensor, Tensor]:
        """The weights for the way there and back, made anew if the weights have changed."""
        key = (self.weight.data_ptr(), self.weight._version)
        if self.__dict__.get("_key") != key:
            back = self.weight.flip(2, 3).transpose(0, 1)
            transformed = (_transform_weight(self.weight), _transform_weight(back))
            self.__dict__.update(_key=key, _weights=transformed)
        weights: tuple[Tensor, Tensor] = self.__dict__["_weights"]
        return weights

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in ("_key", "_weights")}


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, bias: Tensor | None, there: Tensor, back: Tensor
    ) -> Tensor:
        ctx.back = back
        return _convolve(images, there, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _convolve(gradient, ctx.back), None, None, None


def _transform_weight(weight: Tensor) -> Tensor:
    """Takes weights (K, C, 3, 3) to where a convolution is a product: (36, C, K)."""
    products = torch.einsum("ia,jb,kcab->ijck", WEIGHT, WEIGHT, weight.double())
    return products.flatten(0, 1).to(weight.dtype).contiguous()


def _convolve(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolves images with a padding of 1.

    Args:
        images: (B, C, H, W) float32, H and W multiples of 4.
        weight: (36, C, K), see `_transform_weight`.
        bias: (K,).

    Returns:
        (B, K, H, W) in the memory format channels_last.
    """
    rows, columns = images.shape[2] // TILE, images.shape[3] // TILE
    num = max(1, NUM_TILES // (rows * columns))
    chunks = images.permute(0, 2, 3, 1).split(num)
    shape = (len(images), weight.shape[2], *images.shape[2:])
    result = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
    for chunk, out in zip(chunks, result.permute(0, 2, 3, 1).split(num), strict=True):
        products = torch.bmm(_cut_windows(chunk, rows, columns), weight)
        tiles = _transform(OUTPUT, products)
        if bias is not None:
            tiles.view(-1, len(bias)).add_(bias)
        tiles = tiles.view(TILE, TILE, len(chunk), rows, columns, -1)
        out.view(len(chunk), rows, TILE, columns, TILE, -1).copy_(tiles.permute(2, 3, 0, 4, 1, 5))
    return result


def _cut_windows(images: Tensor, rows: int, columns: int) -> Tensor:
    """Takes (B, H, W, C) to transformed 6x6 windows that overlap by 2: (36, B * tiles, C)."""
    padded = F.pad(images, (0, 0, 1, 1, 1, 1))
    image, row, column, channel = padded.stride()
    windows = padded.as_strided(
        (WINDOW, WINDOW, len(images), rows, columns, images.shape[3]),
        (row, column, image, TILE * row, TILE * column, channel),
    )
    return _transform(INPUT, windows.reshape(WINDOW**2, -1)).view(WINDOW**2, -1, images.shape[3])


def _transform(matrix: Tensor, windows: Tensor) -> Tensor:
    """Multiplies 6x6 windows, the first dimension of (36, ...), by a matrix from both sides."""
    rows = (matrix @ windows.view(WINDOW, -1)).view(len(matrix), WINDOW, -1)
    return torch.matmul(matrix, rows)
