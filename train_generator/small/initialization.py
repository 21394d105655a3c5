"""Initial weights for training the small CGN (Sauer and Geiger, appendix)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

Initialization = Literal["orthogonal", "normal"]

WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def initialize(
    module: nn.Module,
    kind: Initialization = "normal",
    gain: float = 0.02,
    *,
    generator: torch.Generator,
) -> None:
    """Draws all weights of a network anew, in place.

    Weights of linear layers and convolutions are orthogonal times the gain (Saxe et al., Exact
    solutions to the nonlinear dynamics of learning, ICLR 2014), or normal with mean 0 and the gain
    as standard deviation; their biases are 0. Weights of batch normalisation are normal with mean 1
    and the gain as standard deviation; their biases are 0. Embeddings are drawn from N(0, 1),
    PyTorch's own distribution for them, so that the networks of this package are a function of the
    arguments alone. Everything else stays as it is.

    Numbers are drawn on the CPU in float32, in the order of `module.modules()`; the same generator
    gives the same weights on every device. The global random generators are not used.

    Args:
        module: for example a `SmallCGN` that is not frozen, or a discriminator.
        kind: "orthogonal" or "normal".
        gain: above 0. The recipes use 0.1 (colored) and 0.2 (double colored), both orthogonal, and
            0.03 (wildlife, normal).
        generator: a CPU generator.

    Examples:
        >>> import torch
        >>> from train_generator.small.initialization import initialize
        >>> layer = torch.nn.Linear(8, 4)
        >>> initialize(layer, "orthogonal", 0.5, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(layer.weight @ layer.weight.T, 0.25 * torch.eye(4), atol=1e-6)
        True
    """
    normal = partial(nn.init.normal_, generator=generator)
    draw_weight: dict[Initialization, Callable[[Tensor], object]] = {
        "orthogonal": partial(nn.init.orthogonal_, gain=gain, generator=generator),
        "normal": partial(normal, std=gain),
    }
    for part in module.modules():
        if isinstance(part, WEIGHTED):
            _fill(part.weight, draw_weight[kind])
            _fill(part.bias, nn.init.zeros_)
        elif isinstance(part, BATCH_NORMS):
            _fill(part.weight, partial(normal, mean=1.0, std=gain))
            _fill(part.bias, nn.init.zeros_)
        elif isinstance(part, nn.Embedding):
            _fill(part.weight, normal)


@torch.no_grad()
def _fill(parameter: Tensor | None, draw: Callable[[Tensor], object]) -> None:
    """Draws float32 numbers on the CPU and copies them into the parameter, if there is one."""
    if parameter is not None:
        drawn = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
        draw(drawn)
        parameter.copy_(drawn)
