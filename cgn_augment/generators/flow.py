"""An invertible map from noise to codes; it makes noise look like the output of an encoder.

Affine coupling layers after Dinh et al., Density estimation using Real NVP, ICLR 2017, conditioned
on the embedding of a class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError

MAX_LOG_SCALE = 1.5


class CodeFlow(nn.Module):
    """Maps noise and an embedding to a code and the same embedding, and back.

    A new flow changes nothing: its last layers are zero.

    Args:
        noise_dim: length of a noise vector and of a code; even.
        embedding_dim: length of an embedding.
        num_layers: coupling layers; they change the two halves of the numbers in turn.
        hidden_dim: units of the two hidden layers of each.

    Raises:
        ArgumentError: `noise_dim` is odd, or a number is below 1.
        ArgumentTypeError: a number is not an integer.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.flow import CodeFlow
        >>> flow = CodeFlow(noise_dim=4, embedding_dim=2)
        >>> noise, _ = flow.invert(torch.ones(1, 6))
        >>> torch.equal(flow(noise), torch.ones(1, 6))
        True
    """

    def __init__(
        self, noise_dim: int, embedding_dim: int, num_layers: int = 8, hidden_dim: int = 128
    ) -> None:
        super().__init__()
        if noise_dim % 2:
            raise ArgumentError(
                f"noise_dim must be even, since a flow works on halves; got {noise_dim}"
            )
        sizes = {"noise_dim": noise_dim, "embedding_dim": embedding_dim}
        sizes |= {"num_layers": num_layers, "hidden_dim": hidden_dim}
        for name, value in sizes.items():
            require_count(name, value)
        self.noise_dim = noise_dim
        self.layers = nn.ModuleList(
            _conditioner(noise_dim // 2, embedding_dim, hidden_dim) for _ in range(num_layers)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps noise to codes.

        Args:
            inputs: (N, noise_dim + embedding_dim) float32: noise, then embeddings.

        Returns:
            (N, noise_dim + embedding_dim) float32: codes, then the same embeddings.
        """
        halves, embedding = self._split(inputs)
        for number in reversed(range(len(self.layers))):
            fixed, changed = number % 2, 1 - number % 2
            log_scale, shift = self._condition(number, halves[fixed], embedding)
            halves[changed] = halves[changed] * log_scale.exp() + shift
        return self._join(halves, embedding)

    def invert(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps codes to noise.

        Args:
            inputs: (N, noise_dim + embedding_dim) float32: codes, then embeddings.

        Returns:
            (N, noise_dim + embedding_dim) noise, then embeddings; and (N,) log determinant of d
            noise / d code.
        """
        halves, embedding = self._split(inputs)
        log_determinant = inputs.new_zeros(len(inputs))
        for number in range(len(self.layers)):
            fixed, changed = number % 2, 1 - number % 2
            log_scale, shift = self._condition(number, halves[fixed], embedding)
            halves[changed] = (halves[changed] - shift) * (-log_scale).exp()
            log_determinant = log_determinant - log_scale.sum(dim=1)
        return self._join(halves, embedding), log_determinant

    def _split(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        numbers, embedding = inputs[:, : self.noise_dim], inputs[:, self.noise_dim :]
        return [numbers[:, ::2], numbers[:, 1::2]], embedding

    def _join(self, halves: list[Tensor], embedding: Tensor) -> Tensor:
        numbers = torch.stack(halves, dim=2).flatten(1)
        return torch.cat([numbers, embedding], dim=1)

    def _condition(self, number: int, fixed: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.layers[number](torch.cat([fixed, embedding], dim=1)).chunk(2, dim=1)
        return MAX_LOG_SCALE * log_scale.tanh(), shift


def _conditioner(half_dim: int, embedding_dim: int, hidden_dim: int) -> nn.Sequential:
    last = nn.Linear(hidden_dim, 2 * half_dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(half_dim + embedding_dim, hidden_dim),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Linear(hidden_dim, hidden_dim),
        nn.LeakyReLU(0.1, inplace=True),
        last,
    )
