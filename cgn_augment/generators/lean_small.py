"""The fast form of a frozen mechanism of the small CGN.

`LeanMechanism` draws what the layers draw, up to rounding, in fewer and cheaper operations:

- Batch normalisation is part of the weights before it.
- Upsampling and convolution are one kernel, merged once instead of at every draw.
- On a CPU, maps have their channels last from the first layer on, instance normalisation is three
  passes over such maps, and a layer with few outputs is one matrix product whose products are then
  added in place: a convolution would compute sixteen outputs for one or three.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.generators.lean import add_taps, apply_taps, merge_upsampling, split_taps
from cgn_augment.generators.upconv import UpConv2d

_Step = Callable[[Tensor], Tensor]

_FEW = 4
"""Outputs up to which a matrix product is faster than a convolution."""


class LeanMechanism:
    """Draws with the weights of a mechanism in eval mode; holds what is computed from them.

    Args:
        layers: the layers of a `SmallCGN`'s mechanism. Those that it does not know run as they are.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import SmallCGN
        >>> from cgn_augment.generators.lean_small import LeanMechanism
        >>> layers, condition = SmallCGN().freeze().f_text1, torch.randn(2, 42)
        >>> torch.allclose(LeanMechanism(layers).draw(condition), layers(condition), atol=1e-5)
        True
    """

    @torch.no_grad()
    def __init__(self, layers: nn.Module) -> None:
        self._steps = list(_simplify(layers))

    def draw(self, condition: Tensor) -> Tensor:
        """Maps noise and embeddings (N, noise_dim + embedding_dim) to maps (N, C, H, W)."""
        x = condition
        for step in self._steps:
            x = step(x)
        return x


def _simplify(layers: nn.Module) -> Iterator[_Step]:
    rest = deque(layer for layer in layers.children() if not isinstance(layer, nn.Identity))
    while rest:
        layer = rest.popleft()
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            size: Any = rest.popleft().unflattened_size if _is(rest, nn.Unflatten) else None
            norm = rest.popleft() if _is(rest, nn.BatchNorm1d, nn.BatchNorm2d) else None
            yield _with_weights(layer, norm, size)
        elif isinstance(layer, nn.InstanceNorm2d):
            yield partial(_normalise, epsilon=layer.eps)
        elif isinstance(layer, nn.LeakyReLU):
            yield partial(F.leaky_relu_, negative_slope=layer.negative_slope)
        elif isinstance(layer, nn.Tanh):
            yield torch.tanh_
        elif isinstance(layer, nn.Sigmoid):
            yield torch.sigmoid_
        else:
            yield layer


def _is(rest: deque[Any], *kinds: type[nn.Module]) -> bool:
    return bool(rest) and isinstance(rest[0], kinds)


def _with_weights(layer: Any, norm: Any, size: tuple[int, int, int] | None) -> _Step:
    """Returns a linear layer or a convolution with the normalisation that follows it."""
    kernel, bias = layer.weight, layer.bias
    if isinstance(layer, UpConv2d):
        kernel = merge_upsampling(kernel)
    doubles = isinstance(layer, (UpConv2d, nn.ConvTranspose2d))
    outputs = kernel.shape[1 if doubles else 0]
    if norm is not None:
        gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * gain
        gain, shift = (each.repeat_interleave(outputs // len(each)) for each in (gain, shift))
        kernel = kernel * gain.view([-1 if dim == doubles else 1 for dim in range(kernel.dim())])
        bias = shift if bias is None else torch.addcmul(shift, bias, gain)
    bias = kernel.new_zeros(outputs) if bias is None else bias
    if isinstance(layer, nn.Linear):
        if size is not None:
            return _maps(kernel, bias, size)
        return partial(F.linear, weight=kernel, bias=bias)
    if outputs <= _FEW and kernel.device.type == "cpu":
        return _few_doubled(kernel, bias) if doubles else _few(kernel, bias)
    layout = torch.channels_last if kernel.device.type == "cpu" else torch.contiguous_format
    kernel = kernel.contiguous(memory_format=layout)
    if doubles:
        return partial(F.conv_transpose2d, weight=kernel, bias=bias, stride=2, padding=1)
    return partial(F.conv2d, weight=kernel, bias=bias, padding=1)


def _maps(weight: Tensor, bias: Tensor, size: tuple[int, int, int]) -> _Step:
    """Returns a linear layer whose outputs are maps (C, H, W), with channels last on a CPU."""
    channels, height, width = size
    if weight.device.type != "cpu":
        return lambda x: F.linear(x, weight, bias).view(-1, *size)
    weight = weight.view(*size, -1).permute(1, 2, 0, 3).flatten(0, 2).contiguous()
    bias = bias.view(size).permute(1, 2, 0).flatten().contiguous()
    last = height, width, channels
    return lambda x: F.linear(x, weight, bias).view(-1, *last).permute(0, 3, 1, 2)


def _few(kernel: Tensor, bias: Tensor) -> _Step:
    """Returns a 3x3 convolution (K, C, 3, 3) of few outputs, padded by one."""
    taps = split_taps(kernel)
    return lambda x: add_taps(apply_taps(x, taps), bias)


def _few_doubled(kernel: Tensor, bias: Tensor) -> _Step:
    """Returns a transposed convolution (C, K, 4, 4) of few outputs, with stride 2 and padding 1."""
    taps = kernel.permute(1, 2, 3, 0).flatten(0, 2).contiguous()

    def run(x: Tensor) -> Tensor:
        size = 2 * x.shape[2], 2 * x.shape[3]
        maps = F.fold(taps @ x.flatten(2), size, 4, padding=1, stride=2)
        return maps.add_(bias[:, None, None])

    return run


def _normalise(x: Tensor, epsilon: float) -> Tensor:
    """Instance normalisation without parameters (Ulyanov et al., 2016)."""
    if x.device.type != "cpu":
        return F.instance_norm(x, eps=epsilon)
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # channels last
    average = rows.new_full((1, 1, rows.shape[1]), 1 / rows.shape[1]).expand(len(rows), -1, -1)
    rows = rows - average @ rows
    rows = rows * (average @ rows.square() + epsilon).rsqrt()
    return rows.view(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
