"""Codes of an autoencoder, its encoder, and the flow that learns to make codes from noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgn_augment.generators.flow import CodeFlow
from train_generator.small.adversary import draw_normal

SLOPE, CODE_DIM = 0.2, 32


class CodeEncoder(nn.Module):
    """Maps images and their classes to means and log variances of codes.

    Args:
        features: maps images (B, C, 32, 32) to (B, num_features).
        num_features: number of features.
        log_variances: smallest and largest log variance.
        num_classes: number of classes.

    Examples:
        >>> import torch
        >>> from train_generator.small.codes import CodeEncoder
        >>> encoder = CodeEncoder(torch.nn.Flatten(), 1024, (-8.0, 4.0))
        >>> mean, log_variance = encoder(torch.zeros(2, 1, 32, 32), torch.tensor([3, 4]))
        >>> mean.shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        features: nn.Module,
        num_features: int,
        log_variances: tuple[float, float],
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.log_variances = log_variances
        self.features = features
        self.classes = nn.Embedding(num_classes, 64)
        self.head = nn.Sequential(
            nn.Linear(num_features + 64, 256),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(256, 2 * CODE_DIM),
        )

    def forward(self, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (B, C, 32, 32) and classes (B,) to two tensors (B, 32) float32."""
        codes = self.head(torch.cat([self.features(images), self.classes(y)], dim=1)).float()
        mean, log_variance = codes.chunk(2, dim=1)
        return mean, log_variance.clamp(*self.log_variances)


def draw_codes(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Draws a code from each normal distribution (Kingma and Welling, ICLR 2014, section 2.4).

    Args:
        mean: (B, code_dim) float32.
        log_variance: (B, code_dim) float32.
        generator: a CPU generator.

    Returns:
        (B, code_dim) float32; gradients reach both arguments.
    """
    return mean + draw_normal(mean, generator) * (log_variance / 2).exp()


def fit_flow(
    flow: CodeFlow,
    mean: Tensor,
    log_variance: Tensor,
    embedding: Tensor,
    num: int,
    generator: torch.Generator,
) -> Tensor:
    """Returns the mean negative log likelihood of codes under a flow, up to a constant.

    Gradients reach only the flow.

    Args:
        flow: maps standard normal noise to codes.
        mean: (B, code_dim) float32; see `draw_codes`.
        log_variance: (B, code_dim) float32.
        embedding: (B, embedding_dim) float32 of the classes.
        num: codes drawn from each normal distribution.
        generator: a CPU generator.

    Returns:
        A scalar.

    Examples:
        >>> import torch
        >>> from cgn_augment.generators.flow import CodeFlow
        >>> from train_generator.small.codes import fit_flow
        >>> mean, sure, embedding = torch.ones(3, 4), torch.full((3, 4), -99.0), torch.zeros(3, 2)
        >>> fit_flow(CodeFlow(4, 2), mean, sure, embedding, 2, torch.Generator()).item()  # 4 / 2
        2.0
    """
    mean, log_variance, embedding = (
        values.detach().repeat(num, 1) for values in (mean, log_variance, embedding)
    )
    codes = draw_codes(mean, log_variance, generator)
    noise, log_determinant = flow.invert(torch.cat([codes, embedding], dim=1))
    energy = noise[:, : flow.noise_dim].square().sum(dim=1) / 2
    return (energy - log_determinant).mean()
