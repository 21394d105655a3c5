"""BigGAN-deep, the mechanism of the ImageNet CGN.

Brock, Donahue and Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis",
ICLR 2019. Layers and names in the state dict are those of `pytorch-pretrained-biggan`. Ours are
the choice of the row of batch statistics, three colour channels instead of 128 of which three are
used, normalisation in one pass, and weights that include the spectral norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.checks import require_count, require_counts
from cgn_augment.errors import ArgumentError
from cgn_augment.generators.lean import LeanBigGAN
from cgn_augment.generators.mechanisms import check_inputs
from cgn_augment.generators.truncation import StatisticsRows, TruncationLookup, find_rows

EPSILON = 1e-4
"""Epsilon of batch and spectral normalisation, in all three published networks."""

SETTLING = 10
"""Power iterations for new weights; training would do them over time."""


Layer = tuple[bool, int, int]

_TO_64: tuple[Layer, ...] = ((False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8))
PUBLISHED_LAYERS: dict[int, tuple[Layer, ...]] = {
    128: (*_TO_64, (False, 8, 8), (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2),
          (True, 2, 1)),
    256: (*_TO_64, (False, 8, 8), (True, 8, 8), (False, 8, 8), (True, 8, 4), (False, 4, 4),
          (True, 4, 2), (False, 2, 2), (True, 2, 1)),
    512: (*_TO_64, (False, 8, 8), (True, 8, 8), (False, 8, 8), (True, 8, 4), (False, 4, 4),
          (True, 4, 2), (False, 2, 2), (True, 2, 1), (False, 1, 1), (True, 1, 1)),
}  # fmt: skip
"""By image size: whether a block doubles the size, and its channels in and out, in widths."""


@dataclass(frozen=True)
class BigGANConfig:
    """The sizes of a BigGAN-deep generator; the published one of 256 pixels by default.

    Args:
        num_classes: number of classes.
        noise_dim: length of a noise vector, and of a class embedding.
        channel_width: channels of the last block; a multiple of 4.
        layers: for each block whether it doubles the size, and its channels in and out, in
            multiples of `channel_width`: from 16 at the first to 1 at the last; each block keeps or
            halves them.
        attention_at: the block after self-attention; its input channels must be a multiple of 8.
        num_statistics: rows of batch statistics, for truncations from 0 to 1.

    Raises:
        ArgumentError: the sizes do not fit a generator.
        ArgumentTypeError: a size is not an integer.

    Examples:
        >>> from cgn_augment.generators import BigGANConfig
        >>> BigGANConfig.published(512).image_size
        512
    """

    num_classes: int = 1000
    noise_dim: int = 128
    channel_width: int = 128
    layers: tuple[Layer, ...] = PUBLISHED_LAYERS[256]
    attention_at: int = 8
    num_statistics: int = 51

    def __post_init__(self) -> None:
        layers = tuple((bool(up), int(dim_in), int(out)) for up, dim_in, out in self.layers)
        object.__setattr__(self, "layers", layers)
        require_counts(self, "num_classes", "noise_dim")
        require_count("channel_width", self.channel_width, least=4)
        require_count("num_statistics", self.num_statistics, least=2)
        if self.channel_width % 4:
            raise ArgumentError(f"channel_width must be a multiple of 4, got {self.channel_width}")
        _check_layers(layers)
        at, channels = self.attention_at, self.channel_width
        if not 0 <= at < len(layers) or layers[at][1] * channels % 8:
            raise ArgumentError(
                f"attention_at must be one of the blocks 0 to {len(layers) - 1} that takes a "
                f"multiple of 8 channels, got {at}"
            )

    @classmethod
    def published(cls, image_size: int) -> Self:
        """Returns the sizes of the published generator of 128, 256 or 512 pixels.

        Args:
            image_size: 128, 256 or 512 pixels.

        Raises:
            ArgumentError: no generator of this size was published.
        """
        if image_size not in PUBLISHED_LAYERS:
            raise ArgumentError(
                f"BigGAN-deep was published at {', '.join(map(str, PUBLISHED_LAYERS))} pixels, not "
                f"at {image_size}: give BigGANConfig the layers of another size"
            )
        return cls(layers=PUBLISHED_LAYERS[image_size])

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(4 * 2 ** sum(up for up, _, _ in self.layers))


class BigGAN(nn.Module):
    """Draws an image of a class. Always in eval mode: drawing updates no statistics or norms.

    Args:
        config: the sizes. A new network has statistics of mean 0 and variance 1.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.biggan import BigGAN, BigGANConfig
        >>> layers = ((False, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1))
        >>> config = BigGANConfig(10, 8, 4, layers, attention_at=2)
        >>> biggan = BigGAN(config)
        >>> biggan(torch.zeros(2, 8), torch.tensor([3, 4]), truncation=0.5).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, config: BigGANConfig | None = None) -> None:
        super().__init__()
        self.config = config or BigGANConfig()
        published = _make_published(self.config)
        self.embeddings: nn.Linear = published.embeddings
        self.generator: nn.Module = published.generator
        _replace_parts(self.generator, self.config.channel_width)
        self._folded, self.compiled = False, False
        self._lean: LeanBigGAN | None = None
        self.settle_norms(SETTLING)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever `mode` says: a forward pass updates nothing in it."""
        return super().train(False)

    def condition(self, noise: Tensor, y: Tensor) -> Tensor:
        """Joins noise (N, noise_dim) and the embeddings of classes (N,) to (N, 2 noise_dim).

        Args:
            noise: (N, noise_dim) float32.
            y: (N,) integer classes.

        Raises:
            ArgumentError: noise or classes have a wrong shape, or a class does not exist.
            ArgumentTypeError: classes are not integers.
        """
        check_inputs(noise, y, self.config.noise_dim, self.config.num_classes)
        embedding = self.embeddings.weight[:, y.to(noise.device).long()].t()
        return torch.cat([noise.to(embedding.dtype), embedding], dim=1)

    def draw(
        self, condition: Tensor, truncation: float = 1.0, lookup: TruncationLookup = "exact"
    ) -> Tensor:
        """Draws like `forward`, from joined noise and embedding (N, 2 noise_dim).

        Args:
            condition: (N, 2 noise_dim) float32, as from `condition`.
            truncation: in (0, 1]; selects the batch statistics.
            lookup: see `find_rows`.

        Returns:
            (N, 3, H, W) float32 in [-1, 1].
        """
        rows = find_rows(truncation, self.config.num_statistics, lookup)
        if not self._folded or (torch.is_grad_enabled() and condition.requires_grad):
            images: Tensor = self.generator(condition, rows)
        else:
            images = self.make_lean(rows, condition.is_cuda).draw(condition)
        return images.float()

    def forward(
        self,
        noise: Tensor,
        y: Tensor,
        truncation: float = 1.0,
        lookup: TruncationLookup = "exact",
    ) -> Tensor:
        """Draws images.

        Args:
            noise: (N, noise_dim) float32: truncated normal noise times the truncation.
            y: (N,) integer classes.
            truncation: in (0, 1]; selects the batch statistics.
            lookup: see `find_rows`.

        Returns:
            (N, 3, H, W) float32 in [-1, 1].

        Raises:
            ArgumentError: see `condition` and `find_rows`.
            ArgumentTypeError: classes are not integers.
        """
        return self.draw(self.condition(noise, y), truncation, lookup)

    def fold(self) -> None:
        """Divides each weight by its spectral norm, and stops computing the norms.

        Images change only by rounding. In the state dict, `weight` replaces `weight_orig`,
        `weight_u` and `weight_v`.
        """
        for part in self.modules():
            if hasattr(part, "weight_orig"):
                nn.utils.remove_spectral_norm(part).weight.requires_grad_(False)
                part._load_state_dict_pre_hooks.clear()  # torch leaves the norm's hook behind
        self._folded = True

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what can be computed from the weights."""
        return {**self.__dict__, "_lean": None}

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._lean = None
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any) -> None:
        self._lean = None
        super()._load_from_state_dict(*args)

    @torch.no_grad()
    def make_lean(self, rows: StatisticsRows, joined: bool) -> LeanBigGAN:
        """Returns the fast form that draws with the folded weights; cached until they change.

        Args:
            rows: the batch statistics to use.
            joined: see `LeanBigGAN`.
        """
        lean = self._lean
        compiled = self.compiled and joined
        if lean is None or not lean.fits((rows, joined, compiled)):
            lean = LeanBigGAN(self.generator, rows, EPSILON, joined=joined, compiled=compiled)
            self._lean = lean
        return lean

    @torch.no_grad()
    def settle_norms(self, num_iterations: int = 1) -> None:
        """Updates the singular vectors of the spectral norms to the weights, in place.

        Uses power iterations (Miyato et al., ICLR 2018, algorithm 1). A forward pass reads the
        vectors and never changes them, so training calls this after its steps. A folded network has
        none.

        Args:
            num_iterations: number of power iterations.
        """
        parts: list[Any] = [part for part in self.modules() if hasattr(part, "weight_orig")]
        if not parts or parts[0].weight_orig.is_meta:
            return
        for part in parts:
            matrix = part.weight_orig.flatten(1)
            for _ in range(num_iterations):
                part.weight_v.copy_(F.normalize(matrix.t() @ part.weight_u, dim=0, eps=EPSILON))
                part.weight_u.copy_(F.normalize(matrix @ part.weight_v, dim=0, eps=EPSILON))


class StatisticsNorm(nn.Module):
    """Batch normalisation with given statistics; the condition gives gain and shift.

    Names and sizes are those of the published layer that it replaces.
    """

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, published: Any) -> None:
        super().__init__()
        self.register_buffer("running_means", published.running_means)
        self.register_buffer("running_vars", published.running_vars)
        self.conditional = bool(published.conditional)
        if self.conditional:
            self.scale: nn.Module = published.scale
            self.offset: nn.Module = published.offset
        else:  # the published layer leaves these two uninitialised
            self.weight = nn.Parameter(torch.ones_like(self.running_means[0]))
            self.bias = nn.Parameter(torch.zeros_like(self.running_means[0]))

    def statistics(self, x: Tensor, rows: StatisticsRows) -> tuple[Tensor, Tensor]:
        """Returns the mean and the variance, each (C,), used to normalise (N, C, H, W)."""
        mean = self.running_means[rows.lower].lerp(self.running_means[rows.upper], rows.fraction)
        var = self.running_vars[rows.lower].lerp(self.running_vars[rows.upper], rows.fraction)
        return mean, var

    def affine(self, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns gain and shift for a condition (N, 2 noise_dim), each (N, C) or (1, C)."""
        if self.conditional:
            return 1 + self.scale(condition), self.offset(condition)
        return self.weight[None], self.bias[None]

    def forward(self, x: Tensor, rows: StatisticsRows, condition: Tensor | None = None) -> Tensor:
        """Normalises (N, C, H, W) in one pass; `condition` is (N, 2 noise_dim)."""
        mean, var = self.statistics(x, rows)
        gain, shift = self.affine(condition)
        gain = gain * (var + EPSILON).rsqrt()
        shift = shift - mean * gain
        return torch.addcmul(
            shift[:, :, None, None].to(x.dtype), x, gain[:, :, None, None].to(x.dtype)
        )


class ColourConv(nn.Conv2d):
    """The last convolution; computes only the three outputs that are used."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, 3, H, W)."""
        bias = None if self.bias is None else self.bias[:3]
        return F.conv2d(x, self.weight[:3], bias, padding=1)


def _make_published(config: BigGANConfig) -> Any:
    import pytorch_pretrained_biggan as package  # imports boto3, which is slow

    return package.BigGAN(
        package.BigGANConfig(
            output_dim=config.image_size,
            z_dim=config.noise_dim,
            class_embed_dim=config.noise_dim,
            channel_width=config.channel_width,
            num_classes=config.num_classes,
            layers=list(config.layers),
            attention_layer_position=config.attention_at,
            eps=EPSILON,
            n_stats=config.num_statistics,
        )
    )


def _replace_parts(generator: nn.Module, channel_width: int) -> None:
    """Replaces the published normalisation and last convolution by ours."""
    for block in generator.modules():
        for name, part in list(block.named_children()):
            if hasattr(part, "running_means") and not isinstance(part, StatisticsNorm):
                setattr(block, name, StatisticsNorm(part))
            elif isinstance(part, nn.ReLU):
                part.inplace = True  # its input is always the new result of a normalisation
    last = ColourConv(channel_width, channel_width, 3, padding=1)
    generator.conv_to_rgb = nn.utils.spectral_norm(last, eps=EPSILON)


def _check_layers(layers: tuple[Layer, ...]) -> None:
    before = 16
    for number, (_, dim_in, dim_out) in enumerate(layers):
        if dim_in != before or dim_out not in (dim_in, dim_in // 2):
            raise ArgumentError(
                f"block {number} goes from {dim_in} to {dim_out} channel widths: it must begin at "
                f"{before}, and keep or halve them"
            )
        before = dim_out
    if before != 1:
        raise ArgumentError(f"layers must go from 16 channel widths to 1, not to {before}")
