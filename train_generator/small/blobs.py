"""Teaches a shape mechanism, before any image, that objects are blobs in the centre."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.generators import SmallCGN
from cgn_augment.generators.flow import CodeFlow
from train_generator.training.alone import train_alone

RADIUS, RADIUS_SPREAD, CENTER_SPREAD, SHARPNESS = 6.5, 1.0, 1.5, 0.7


def draw_blobs(noise: Tensor, size: int = 32) -> Tensor:
    """Draws soft discs; the first three numbers of the noise give row, column and radius.

    Args:
        noise: (N, 3 or more) float32, standard normal.
        size: pixels on a side.

    Returns:
        (N, 1, size, size) float32 in [0, 1].

    Examples:
        >>> import torch
        >>> from train_generator.small.blobs import draw_blobs
        >>> draw_blobs(torch.zeros(1, 3))[0, 0, 16, 16].item() > 0.9
        True
    """
    places = torch.arange(size, dtype=noise.dtype, device=noise.device)
    center = (size - 1) / 2 + CENTER_SPREAD * noise[:, :2, None]
    rows, columns = ((places - center) ** 2).unbind(dim=1)
    distance = (rows[:, :, None] + columns[:, None, :]).sqrt()
    radius = RADIUS + RADIUS_SPREAD * noise[:, 2, None, None]
    return (SHARPNESS * (radius - distance)).sigmoid()[:, None]


def teach_blobs(
    cgn: SmallCGN, num_steps: int, generator: torch.Generator, batch_size: int = 64
) -> None:
    """Trains the shape mechanism of a CGN, in place on the CPU, to draw blobs for every class."""
    optimizer = torch.optim.Adam(weights_outside_flow(cgn.f_shape), 2e-3)

    def loss() -> Tensor:
        noise = cgn.draw_noise(batch_size, generator)
        y = torch.randint(cgn.num_classes, (batch_size,), generator=generator)
        return F.binary_cross_entropy(cgn.shape(noise, y), draw_blobs(noise))

    train_alone("blobs", cgn, num_steps, optimizer, loss)


def weights_outside_flow(network: nn.Module) -> list[nn.Parameter]:
    """Returns all weights except those of a `CodeFlow`, which has no effect until it is fitted."""
    flows = [part for part in network.modules() if isinstance(part, CodeFlow)]
    inside = {id(weight) for flow in flows for weight in flow.parameters()}
    return [weight for weight in network.parameters() if id(weight) not in inside]
