"""Trains a BigGAN-deep generator with batch statistics, then gives it fixed ones.

`cgn_augment.generators.BigGAN` only draws: it normalises with given statistics for each truncation.
A generator trained from scratch normalises with those of the batch (Brock et al., ICLR 2019,
section 3), and its spectral norms follow its weights. In the end the statistics of a large batch at
each truncation are recorded ("standing statistics", their section 4.1).
"""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.functional import Purpose, step_generator
from cgn_augment.generators import BigGAN, BigGANConfig
from cgn_augment.generators.biggan import EPSILON, StatisticsNorm
from cgn_augment.generators.truncation import StatisticsRows, draw_truncated, find_rows


class BatchStatisticsNorm(StatisticsNorm):
    """Normalises with the mean and the variance of the batch; in eval mode it remembers both.

    Args:
        part: the normalisation whose place it takes; names and weights are its own.
    """

    def __init__(self, part: StatisticsNorm) -> None:
        super().__init__(part)
        if not part.conditional:
            self.weight, self.bias = part.weight, part.bias
        self._seen: tuple[Tensor, Tensor] | None = None

    def statistics(self, x: Tensor, rows: StatisticsRows) -> tuple[Tensor, Tensor]:
        """Returns those of `x`, whatever the rows."""
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        self._seen = mean.detach(), var.detach()
        return mean, var

    def write(self, row: int) -> None:
        """Writes the statistics of the last batch in eval mode into a row of those of truncations.

        Raises:
            CheckpointError: there was no such batch.
        """
        if self._seen is None:
            raise CheckpointError("no batch was drawn in eval mode: draw one first")
        self.running_means[row], self.running_vars[row] = self._seen

    def forward(self, x: Tensor, rows: StatisticsRows, condition: Tensor | None = None) -> Tensor:
        """Normalises (N, C, H, W); `condition` is (N, 2 noise_dim)."""
        if not self.training:
            return super().forward(x, rows, condition)
        gain, shift = self.affine(condition)
        x = F.batch_norm(x, None, None, training=True, eps=EPSILON)
        return torch.addcmul(
            shift[:, :, None, None].to(x.dtype), x, gain[:, :, None, None].to(x.dtype)
        )


class TrainableBigGAN(BigGAN):
    """A BigGAN of batch statistics, which can be in training mode.

    Args:
        config: the sizes.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators import BigGANConfig
        >>> from benchmarks.scenes.batch_statistics import TrainableBigGAN
        >>> layers = ((False, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1))
        >>> config = BigGANConfig(10, 8, 4, layers, attention_at=2, num_statistics=2)
        >>> biggan = TrainableBigGAN(config).train()
        >>> biggan(torch.randn(4, 8), torch.arange(4)).std().backward()
        >>> standing = biggan.with_standing_statistics(num_images=8)
        >>> standing(torch.zeros(1, 8), torch.tensor([3])).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__(config)
        for block in list(self.modules()):
            for name, part in list(block.named_children()):
                if isinstance(part, StatisticsNorm):
                    setattr(block, name, BatchStatisticsNorm(part))

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode, in which spectral norms follow the weights."""
        return nn.Module.train(self, mode)

    def coarse_features(self, noise: Tensor, y: Tensor, num_blocks: int) -> Tensor:
        """Returns what the first blocks make of noise and classes.

        Args:
            noise: (N, noise_dim) float32.
            y: (N,) integer classes.
            num_blocks: from the bottom; attention that stands after them is left out.

        Returns:
            (N, C, h, w) float32, of the channels and the resolution that the next block gets.

        Raises:
            ArgumentError: see `BigGAN.condition`, or blocks that there are not.
        """
        if not 1 <= num_blocks <= len(self.config.layers):
            raise ArgumentError(
                f"num_blocks must be 1 to {len(self.config.layers)}, got {num_blocks}"
            )
        condition = self.condition(noise, y)
        generator: Any = self.generator
        channels = 16 * self.config.channel_width
        x: Tensor = generator.gen_z(condition).view(-1, 4, 4, channels).permute(0, 3, 1, 2)
        for layer in generator.layers:
            if num_blocks == 0:
                break
            if hasattr(layer, "bn_0"):
                x = layer(x, condition, find_rows(1.0, self.config.num_statistics))
                num_blocks -= 1
            else:
                x = layer(x)
        return x

    @torch.no_grad()
    def with_standing_statistics(self, num_images: int = 256, seed: int = 0) -> BigGAN:
        """Returns a generator of the same weights with statistics for each truncation.

        Args:
            num_images: that the statistics of one truncation are taken over, of all classes alike
                and drawn at once.
            seed: of their noise.
        """
        self.eval()
        last = self.config.num_statistics - 1
        y = torch.arange(num_images) % self.config.num_classes
        norms = [part for part in self.modules() if isinstance(part, BatchStatisticsNorm)]
        for row in range(last + 1):
            generator = step_generator(Purpose.WEIGHTS, seed, row)
            noise = draw_truncated(num_images, self.config.noise_dim, generator)
            self(noise * (row / last), y)
            for norm in norms:
                norm.write(row)
        biggan = BigGAN(self.config)
        biggan.load_state_dict(self.state_dict())
        return biggan
