"""The sizes of BigGAN-deep generators: the three published ones, and reduced ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cgn_augment.checks import require_count, require_counts
from cgn_augment.errors import ArgumentError

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
        num_classes: classes.
        noise_dim: length of a noise vector, and of a class's embedding.
        channel_width: channels of the last block; a multiple of 4.
        layers: for each block whether it doubles the size, and its channels in and out, in
            multiples of `channel_width`: from 16 at the first down to 1 at the last, each as many
            as before or half as many.
        attention_at: the block before which self-attention stands; its channels must be a multiple
            of 8.
        num_statistics: rows of batch statistics, for truncations from 0 to 1.

    Raises:
        ArgumentError: sizes that fit no generator.
        ArgumentTypeError: a size that is not an integer.

    Example:
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
        if not 0 <= self.attention_at < len(layers):
            raise ArgumentError(
                f"attention_at must be one of the blocks 0 to {len(layers) - 1}, got "
                f"{self.attention_at}"
            )
        if layers[self.attention_at][1] * self.channel_width % 8:
            raise ArgumentError(
                f"attention needs a multiple of 8 channels; block {self.attention_at} has "
                f"{layers[self.attention_at][1] * self.channel_width}"
            )

    @classmethod
    def published(cls, image_size: int) -> Self:
        """Returns the sizes of the published generator of 128, 256 or 512 pixels.

        Raises:
            ArgumentError: another size.
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


def _check_layers(layers: tuple[Layer, ...]) -> None:
    if not layers or layers[0][1] != 16 or layers[-1][2] != 1:
        raise ArgumentError("layers must go from 16 channel widths to 1")
    for number, (_, dim_in, dim_out) in enumerate(layers):
        if dim_out not in (dim_in, dim_in // 2) or dim_in < 1:
            raise ArgumentError(
                f"block {number} goes from {dim_in} to {dim_out} channel widths: it must keep or "
                "halve them"
            )
        if number and layers[number - 1][2] != dim_in:
            raise ArgumentError(
                f"block {number} takes {dim_in} channel widths and the one before gives "
                f"{layers[number - 1][2]}"
            )
