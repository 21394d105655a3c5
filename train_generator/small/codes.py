"""Codes of an autoencoder, and the flow that learns to make them from noise."""

from __future__ import annotations

import torch
from torch import Tensor

from cgn_augment.generators.flow import CodeFlow
from train_generator.small.adversary import draw_normal


def draw_codes(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a code of each normal distribution (Kingma and Welling, ICLR 2014, section 2.4).

    Args:
        mean: (B, code_dim) float32.
        log_variance: (B, code_dim) float32.
        generator: a CPU generator.

    Returns:
        (B, code_dim) float32; gradients reach both arguments.
    """
    return mean + draw_normal(mean, generator) * (log_variance / 2).exp()


def flow_loss(flow: CodeFlow, codes: Tensor, embedding: Tensor) -> Tensor:
    """The mean negative log likelihood of codes under a flow, but for a constant.

    Args:
        flow: maps standard normal noise to codes.
        codes: (B, code_dim) float32; they get no gradients.
        embedding: (B, embedding_dim) float32 of their classes; gets no gradients.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> from cgn_augment.generators.flow import CodeFlow
        >>> from train_generator.small.codes import flow_loss
        >>> flow_loss(CodeFlow(4, 2), torch.ones(3, 4), torch.zeros(3, 2)).item()  # 4 * 1 / 2
        2.0
    """
    inputs = torch.cat([codes.detach(), embedding.detach()], dim=1)
    noise, log_determinant = flow.invert(inputs)
    energy = noise[:, : flow.noise_dim].square().sum(dim=1) / 2
    return (energy - log_determinant).mean()


def fit_flow(
    flow: CodeFlow,
    mean: Tensor,
    log_variance: Tensor,
    embedding: Tensor,
    num: int,
    generator: torch.Generator,
) -> Tensor:
    """The loss of a flow on `num` codes of each normal distribution; see `draw_codes`.

    Gradients reach the flow alone.
    """
    mean, log_variance, embedding = (
        values.detach().repeat(num, 1) for values in (mean, log_variance, embedding)
    )
    return flow_loss(flow, draw_codes(mean, log_variance, generator), embedding)
