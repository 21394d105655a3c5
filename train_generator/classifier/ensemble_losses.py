"""A step of the ensemble's training: forward passes, losses, and what is counted in tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cgn_augment.types import FACTORS
from train_generator.classifier.ensemble import HeadLogits, InvariantEnsemble
from train_generator.classifier.ensemble_config import BatchNormPolicy
from train_generator.metrics.groups import require_finite_scores


class EnsembleLosses(NamedTuple):
    """The losses of a step, scalars.

    Attributes:
        real: of the average of the heads, on real images.
        shape: of the shape head, on counterfactuals; 0 where there are none.
        texture: of the texture head.
        background: of the background head.
    """

    real: Tensor
    shape: Tensor
    texture: Tensor
    background: Tensor

    def total(self) -> Tensor:
        """Returns the sum."""
        return self.real + self.shape + self.texture + self.background


def ensemble_loss(
    real_logits: HeadLogits, real_labels: Tensor, cf_logits: HeadLogits, cf_labels: Tensor
) -> EnsembleLosses:
    """Returns the mean cross-entropies of a step (Sauer and Geiger, ICLR 2021, section 4.2).

    Real images train the average of the three heads, counterfactuals each head on its factor.

    Args:
        real_logits: of real images, each head (B, C) float32.
        real_labels: (B,) int64.
        cf_logits: of counterfactuals, each head (N, C) float32; N may be 0.
        cf_labels: (N, 3) int64 labels of shape, texture and background.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import HeadLogits, ensemble_loss
        >>> even = HeadLogits(*torch.zeros(3, 2, 4))
        >>> losses = ensemble_loss(even, torch.tensor([0, 1]), even, torch.zeros(2, 3).long())
        >>> round(losses.total().item(), 4), round(4 * torch.log(torch.tensor(4.0)).item(), 4)
        (5.5452, 5.5452)
    """
    real = F.cross_entropy(real_logits.average(), real_labels)
    if len(cf_labels) == 0:
        return EnsembleLosses(real, *(real.new_zeros(3)))
    heads = zip(cf_logits, cf_labels.unbind(1), strict=True)
    return EnsembleLosses(real, *(F.cross_entropy(logits, labels) for logits, labels in heads))


def use_batch_statistics(model: nn.Module, use: bool) -> None:
    """Makes each BatchNorm take its statistics from the batch, and remember them, or not.

    Args:
        model: its other modules stay in their modes.
        use: False normalises with the running statistics and leaves these as they are.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(use)


def forward_parts(
    model: InvariantEnsemble, real: Tensor, made: Tensor, policy: BatchNormPolicy
) -> tuple[HeadLogits, HeadLogits]:
    """Runs the ensemble on real images and on counterfactuals; see `EnsembleConfig.batch_norm`.

    Args:
        model: in train mode; its BatchNorms are put into the modes of the policy.
        real: (B, 3, H, W) float32.
        made: (N, 3, H, W) float32; N may be 0.
        policy: eval, real or train.

    Returns:
        The logits of both.
    """
    if policy == "real" and len(made):
        use_batch_statistics(model, True)
        real_logits = model(real)
        use_batch_statistics(model, False)
        return real_logits, model(made)
    use_batch_statistics(model, policy != "eval")
    logits: HeadLogits = model(torch.cat([real, made]))
    sizes = [len(real), len(made)]
    real_rows, made_rows = zip(*(torch.split(head, sizes) for head in logits), strict=True)
    return HeadLogits(*real_rows), HeadLogits(*made_rows)


@torch.no_grad()
def find_correct(
    model: InvariantEnsemble, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Finds the images whose most likely class is their label.

    Args:
        model: it is in eval mode meanwhile.
        batches: images (B, 3, H, W) float32 and labels (B,) int64.

    Returns:
        By "average", "shape", "texture", "background" and "background_free" which images are
        right, (N,) bool on the CPU.

    Raises:
        ArgumentError: a score is NaN or infinite.

    Examples:
        >>> import torch
        >>> from train_generator.classifier import find_correct, make_ensemble
        >>> model = make_ensemble("shufflenet_v2_x0_5", num_classes=2, pretrained=False)
        >>> right = find_correct(model, [(torch.zeros(3, 3, 32, 32), torch.zeros(3).long())])
        >>> right["average"].shape
        torch.Size([3])
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    names = "average", *FACTORS, "background_free"
    right = {name: [torch.zeros(0, dtype=torch.bool)] for name in names}
    for images, labels in batches:
        targets = labels.to(device)
        for name, logits in model(images.to(device)).predictions().items():
            require_finite_scores(logits, f"the output {name}")
            right[name].append((logits.argmax(dim=1) == targets).cpu())
    model.train(was_training)
    return {name: torch.cat(parts) for name, parts in right.items()}
