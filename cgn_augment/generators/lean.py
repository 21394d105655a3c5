"""The fast form of a folded BigGAN: the same network in as few operations as possible.

The network is in Brock, Donahue and Simonyan (ICLR 2019), appendix B. `LeanBigGAN` reorders its
linear operations, so its images differ from those of the modules only by rounding:

- Batch normalisation is one multiplication and one addition. Its statistics, which the truncation
  selects, and the biases of the convolutions before it are part of these two numbers per channel.
- A nearest upsampling plus the 3x3 convolution after it are one transposed convolution: 4 products
  per output instead of 9.
- The skipped half of a block is added in place, without upsampling it first.
- The three projections of self-attention are one, and PyTorch's fused attention does the rest.
- On a GPU, where launches cost more than arithmetic, one matrix product makes the gains and shifts
  of all layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.generators.truncation import StatisticsRows
from cgn_augment.generators.watch import Watch

Affine = tuple[Tensor, Tensor]
"""Gain and shift of a normalisation, each (N, C, 1, 1) or (1, C, 1, 1)."""


Normalise = Callable[..., Tensor]

STRIP = 32
"""Rows of the largest map that a CPU processes at a time; an even number."""


class Block(NamedTuple):
    """Weights of a residual block; shifts and the carried bias include its biases."""

    doubles: bool
    merged: bool
    first: Tensor
    second: Tensor
    third: Tensor
    last: Tensor


class Attention(NamedTuple):
    """Queries, keys and values in one projection; the output projection includes the gain."""

    num_query: int
    project: Tensor
    bias: Tensor
    last: Tensor


class Norm(NamedTuple):
    """A conditional normalisation: what makes its gain and shift from the condition."""

    scale: nn.Module
    offset: nn.Module
    deviation: Tensor  # 1 / standard deviation of the statistics
    mean: Tensor  # of the statistics, minus the bias of the convolution before


class LeanBigGAN:
    """Draws with the weights of a folded generator; holds what is computed from them.

    Args:
        generator: the modules of a folded `BigGAN`.
        rows: which statistics to use.
        epsilon: epsilon of the normalisation.
        joined: whether one product makes all gains and shifts. Needs memory for a float32 copy of
            their weights.
        compiled: whether torch.compile joins a normalisation and its ReLU into one kernel.

    Attributes:
        tensors: everything it reads when it draws.
    """

    def __init__(
        self,
        generator: Any,
        rows: StatisticsRows,
        epsilon: float,
        *,
        joined: bool,
        compiled: bool = False,
    ) -> None:
        weights = [*generator.parameters(), *generator.buffers()]
        self._watch = Watch(weights)
        self.key = rows, joined, compiled
        self._normalise: Normalise = compiled_normalise() if compiled else _normalise
        self.parts: list[Block | Attention] = []
        self._norms: list[Norm] = []
        self._first = generator.gen_z
        size, carried = 4, torch.zeros_like(generator.layers[0].bn_0.running_means[0]).float()
        for layer in generator.layers:
            if hasattr(layer, "bn_0"):
                size, carried = self._add_block(layer, rows, epsilon, size, carried)
            else:
                self.parts.append(_attention(layer, carried))
        mean, deviation = _statistics(generator.bn, rows, epsilon)
        gain = generator.bn.weight.float() * deviation
        shift = generator.bn.bias.float() + (carried - mean) * gain
        dtype = generator.conv_to_rgb.weight.dtype
        self._end: Affine = _as_map(gain[None], dtype), _as_map(shift[None], dtype)
        self._colour = generator.conv_to_rgb.weight[:3].contiguous(
            memory_format=torch.channels_last
        )
        self._colour_bias = generator.conv_to_rgb.bias[:3]
        self._table = self._join() if joined else None
        self.tensors = [*weights, *self._end, self._colour, *(self._table or ())]
        self.tensors += [v for part in self.parts for v in part if isinstance(v, Tensor)]

    def fits(self, key: tuple[StatisticsRows, bool, bool]) -> bool:
        """Returns whether it still matches the weights and these rows."""
        return key == self.key and self._watch.unchanged()

    def draw(self, condition: Tensor) -> Tensor:
        """Draws (N, 3, H, W) in [-1, 1], channels last, from a condition (N, 2 noise_dim)."""
        affines = self._affines(condition)
        x: Tensor = self._first(condition)
        x = x.view(len(x), 4, 4, x.shape[1] // 16).permute(0, 3, 1, 2)
        *parts, last = self.parts
        for part in parts:
            if isinstance(part, Attention):
                x = _attend(part, x)
            else:
                x = _add_to(x, project(self._run_block(part, x, affines), part.last), part.doubles)
        block = cast(Block, last)  # attention comes before a block
        y = self._run_block(block, x, affines)
        if y.device.type == "cpu":
            return self._finish_in_strips(block, y, x).tanh_()
        x = _add_to(x, project(y, block.last), block.doubles)
        x = self._normalise(x, *self._end, x)
        return F.conv2d(x, self._colour, self._colour_bias, padding=1).tanh_()

    def _finish_in_strips(self, block: Block, y: Tensor, x: Tensor) -> Tensor:
        """Projects the last block's map, adds to it, normalises and colours it, strip by strip.

        A strip stays in the processor's cache; a whole map is the largest of all.
        """
        num, _, height, width = y.shape
        taps = split_taps(self._colour)
        maps = y.new_empty(num, len(taps), height, width)
        for image, top in itertools.product(range(num), range(0, height, STRIP)):
            rows, at = slice(top, top + STRIP), slice(image, image + 1)
            beside = slice(top // 2, (top + STRIP) // 2) if block.doubles else rows
            strip = project(y[at, :, rows], block.last)
            strip = _add_to(x[at, :, beside], strip, block.doubles)
            strip = self._normalise(strip, *self._end, strip)
            maps[at, :, rows] = apply_taps(strip, taps)
        return add_taps(maps, self._colour_bias)

    def _add_block(
        self, block: Any, rows: StatisticsRows, epsilon: float, size: int, carried: Tensor
    ) -> tuple[int, Tensor]:
        """Adds a block at map size `size`; returns the next size, and the bias to carry on."""
        before = carried
        for norm, conv in zip(
            (block.bn_0, block.bn_1, block.bn_2, block.bn_3),
            (block.conv_0, block.conv_1, block.conv_2, block.conv_3),
            strict=True,
        ):
            mean, deviation = _statistics(norm, rows, epsilon)
            self._norms.append(Norm(norm.scale, norm.offset, deviation, mean - before))
            before = conv.bias.float()
        kernel = block.conv_1.weight
        # A kernel of twice the size pays off unless it is far larger than its input.
        merged = bool(block.up_sample) and len(kernel) <= size**2
        weights = (
            block.conv_0.weight,
            _channels_last(merge_upsampling(kernel)) if merged else kernel,
        )
        last = block.conv_3.weight
        self.parts.append(Block(bool(block.up_sample), merged, *weights, block.conv_2.weight, last))
        return size * (1 + block.up_sample), carried[: len(last)] + before

    def _run_block(self, block: Block, x: Tensor, affines: Iterator[Affine]) -> Tensor:
        """Returns the input of a block's last projection."""
        y = project(self._normalise(x, *next(affines)), block.first)
        y = self._normalise(y, *next(affines), y)
        if block.merged:
            y = F.conv_transpose2d(y, block.second, stride=2, padding=1)
        else:
            y = F.interpolate(y, scale_factor=2) if block.doubles else y
            y = F.conv2d(y, block.second, padding=1)
        y = F.conv2d(self._normalise(y, *next(affines), y), block.third, padding=1)
        return self._normalise(y, *next(affines), y)

    def _affines(self, condition: Tensor) -> Iterator[Affine]:
        dtype = condition.dtype
        if self._table is None:
            for norm in self._norms:
                gain = norm.deviation + norm.scale(condition).float() * norm.deviation
                shift = torch.addcmul(norm.offset(condition).float(), norm.mean, gain, value=-1)
                yield _as_map(gain, dtype), _as_map(shift, dtype)
            return
        weight, bias = self._table
        found = torch.addmm(bias, condition.float(), weight).to(dtype)[:, :, None, None]
        sizes = [len(norm.mean) for norm in self._norms for _ in range(2)]
        parts = iter(torch.split(found, sizes, dim=1))
        yield from zip(parts, parts, strict=True)

    def _join(self) -> tuple[Tensor, Tensor]:
        weights, biases = [], []
        for norm in self._norms:
            scale: Any = norm.scale
            offset: Any = norm.offset
            gain = scale.weight.float() * norm.deviation[:, None]
            weights += [gain, offset.weight.float() - norm.mean[:, None] * gain]
            biases += [norm.deviation, -norm.mean * norm.deviation]
        return torch.cat(weights).t(), torch.cat(biases)


def merge_upsampling(kernel: Tensor) -> Tensor:
    """Merges a nearest upsampling and a 3x3 convolution into one transposed convolution.

    Args:
        kernel: (C, C', 3, 3).

    Returns:
        (C', C, 4, 4), for a stride of 2 and a padding of 1.

    Examples:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from cgn_augment.generators.lean import merge_upsampling
        >>> x, kernel = torch.rand(1, 2, 5, 5), torch.rand(3, 2, 3, 3)
        >>> once = F.conv_transpose2d(x, merge_upsampling(kernel), stride=2, padding=1)
        >>> twice = F.conv2d(F.interpolate(x, scale_factor=2), kernel, padding=1)
        >>> torch.allclose(once, twice, atol=1e-5)
        True
    """
    kernel = kernel.transpose(0, 1).flip(2, 3)
    kernel = F.pad(kernel, (0, 1, 0, 0)) + F.pad(kernel, (1, 0, 0, 0))
    return F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))


def _normalise(x: Tensor, gain: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Returns relu(gain x + shift), in `out` if given, which may be `x`."""
    return torch.addcmul(shift, x, gain, out=torch.empty_like(x) if out is None else out).relu_()


@cache
def compiled_normalise() -> Normalise:
    """Returns `_normalise` as one kernel, compiled at its first call."""

    def normalise(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        return torch.addcmul(shift, x, gain).relu()

    made = torch.compile(normalise, dynamic=True)
    return lambda x, gain, shift, out=None: made(x, gain, shift)


def _add_to(x: Tensor, y: Tensor, doubles: bool) -> Tensor:
    """Adds the first channels of x (N, C, H, W) to y, each pixel to four if y has twice the size.

    Works in place, without enlarging x.
    """
    x = x[:, : y.shape[1]]
    if not doubles:
        return y.add_(x)
    num, channels, height, width = x.shape
    pixels = y.view(num, channels, height, 2, width, 2)
    pixels.add_(x[:, :, :, None, :, None])
    return y


def convolve_to_few(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Applies a 3x3 convolution (K, C, 3, 3) with few outputs to (N, C, H, W), padded by one.

    On a CPU it is one matrix product, whose nine maps are then moved and added: a convolution would
    compute sixteen outputs where three are wanted.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.lean import convolve_to_few
        >>> x, kernel, bias = torch.rand(2, 4, 5, 6), torch.rand(3, 4, 3, 3), torch.rand(3)
        >>> expected = torch.nn.functional.conv2d(x, kernel, bias, padding=1)
        >>> torch.allclose(convolve_to_few(x, kernel, bias), expected, atol=1e-5)
        True
    """
    if x.device.type != "cpu" or is_traced():
        return F.conv2d(x, kernel, bias, padding=1)
    return add_taps(apply_taps(x, split_taps(kernel)), bias)


def is_traced() -> bool:
    """Whether operations are recorded, for ONNX, say."""
    jit: Any = torch.jit
    return bool(torch.compiler.is_compiling() or jit.is_tracing())


def split_taps(kernel: Tensor) -> Tensor:
    """Turns a 3x3 kernel (K, C, 3, 3) into a matrix (9 K, C), tap by tap."""
    return kernel.permute(2, 3, 0, 1).reshape(-1, kernel.shape[1])


def apply_taps(x: Tensor, taps: Tensor) -> Tensor:
    """Applies a matrix (K, C) to each pixel of (N, C, H, W); returns (N, K, H, W), contiguous."""
    return (taps @ x.flatten(2)).view(len(x), len(taps), *x.shape[2:])


def add_taps(maps: Tensor, bias: Tensor) -> Tensor:
    """Moves the nine maps of (N, 9 K, H, W) to their taps' places, and adds them and a bias."""
    num, channels, height, width = maps.shape
    outputs = channels // 9
    added = maps.new_empty(num, outputs, height, width).copy_(bias[:, None, None])
    for tap, (down, right) in enumerate(itertools.product((-1, 0, 1), repeat=2)):
        rows, columns = _overlap(down, height), _overlap(right, width)
        moved = maps[:, tap * outputs : (tap + 1) * outputs, rows[1], columns[1]]
        added[:, :, rows[0], columns[0]] += moved
    return added


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    """Returns target and origin slices for a lookup at an offset."""
    return slice(max(0, -by), size - max(0, by)), slice(max(0, by), size - max(0, -by))


def _attend(part: Attention, x: Tensor) -> Tensor:
    projected = project(x, part.project, part.bias)
    num = part.num_query
    query, others = projected[:, :num], F.max_pool2d(projected[:, num:], 2)
    q, k, v = (_as_rows(each) for each in (query, others[:, :num], others[:, num:]))
    if x.is_cuda:
        found = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    else:  # keys and values differ in length, which PyTorch fuses only on GPUs
        found = (q @ k.transpose(2, 3)).softmax(dim=3) @ v
    maps = found[:, 0].transpose(1, 2).reshape(len(x), v.shape[-1], *x.shape[2:])
    return project(maps, part.last).add_(x)


def project(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Applies a 1x1 convolution (K, C, 1, 1) to (N, C, H, W), channels last.

    Uses one matrix product, or oneDNN, which `conv2d` skips on one thread although it is faster by
    a sixth.
    """
    onednn: Any = torch.backends.mkldnn
    if x.device.type == "cpu" and x.dtype == torch.float32 and onednn.is_available():
        return torch.mkldnn_convolution(x, kernel, bias, (0, 0), (1, 1), (1, 1), 1)
    return F.linear(x.permute(0, 2, 3, 1), kernel.flatten(1), bias).permute(0, 3, 1, 2)


def _as_rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)[:, None]


def _attention(part: Any, carried: Tensor) -> Attention:
    projections = (part.snconv1x1_theta, part.snconv1x1_phi, part.snconv1x1_g)
    weight = torch.cat([each.weight for each in projections])
    bias = (weight.flatten(1).float() @ carried).to(weight)
    last = part.snconv1x1_o_conv.weight * part.gamma
    return Attention(len(part.snconv1x1_theta.weight), _channels_last(weight), bias, last)


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _statistics(norm: Any, rows: StatisticsRows, epsilon: float) -> Affine:
    """Returns the mean and the inverse deviation, each (C,) float32."""
    both = (norm.running_means.float(), norm.running_vars.float())
    mean, var = (each[rows.lower].lerp(each[rows.upper], rows.fraction) for each in both)
    return mean, (var + epsilon).rsqrt()


def _as_map(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype)[:, :, None, None]
