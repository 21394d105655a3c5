"""A step of the ImageNet CGN's training (Sauer and Geiger, ICLR 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, compose, step_generator
from cgn_augment.generators import BigGAN, ImageNetCGN
from train_generator.imagenet.config import ImageNetConfig
from train_generator.losses.functional import mask_entropy_loss, mask_size_loss
from train_generator.losses.patches import draw_picks, make_sheets
from train_generator.losses.perceptual import (
    PerceptualFeatures,
    perceptual_loss,
    released_gram_weights,
)
from train_generator.training.average import update_average
from train_generator.training.ranks import Ranks
from train_generator.training.stages import StepAbandonedError

_LONG = 20
"""Number of batches from which a step has its own bar."""


class MechanismLosses(nn.Module):
    """Runs mechanisms and losses on a batch, with the same class for all three mechanisms.

    The frozen BigGAN and the features are not part of the module, so they are not copied or sent to
    other processes.

    Args:
        config: settings.
        cgn: the network to train.
        target: draws the target images; None if no loss needs them.
        features: features of the Gram losses; None if there are none.
    """

    def __init__(
        self,
        config: ImageNetConfig,
        cgn: ImageNetCGN,
        target: BigGAN | None,
        features: PerceptualFeatures | None,
    ) -> None:
        super().__init__()
        self.config, self.cgn = config, cgn
        self._frozen: tuple[Any, Any] = (target, features)
        self.perceptual = released_gram_weights(config.losses.perceptual)
        self.texture = released_gram_weights(config.losses.texture)

    def forward(
        self, noise: Tensor, y: Tensor, picks: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Returns the weighted losses and the mean mask; runs only the networks that are needed.

        Args:
            noise: (B, noise_dim) float32.
            y: (B,) int64 classes.
            picks: (B, num_drawn) int64; see `draw_picks`.
        """
        weights, cgn = self.config.losses, self.cgn
        target, features = self._frozen
        drawn: dict[str, Tensor] = {}
        if weights.compares or weights.background:
            drawn["background"] = cgn.background(noise, y)
        if weights.needs_target or weights.entropy or weights.size:
            drawn["mask"] = cgn.shape(noise, y)
        if weights.needs_target:
            drawn["foreground"] = cgn.texture(noise, y)
        if weights.background:
            drawn["saliency"] = cgn.u2net(drawn["background"]).float()
        if weights.needs_target:
            with torch.no_grad():
                drawn["target"] = target(noise, y, cgn.truncation, cgn.truncation_lookup)
        with torch.autocast(noise.device.type, enabled=False):
            losses = self._judge(drawn, picks, features)
        return losses, drawn["mask"].detach().mean() if "mask" in drawn else None

    def _judge(self, drawn: dict[str, Tensor], picks: Tensor, features: Any) -> dict[str, Tensor]:
        config, losses = self.config.losses, {}
        if config.entropy:
            losses["entropy"] = config.entropy * mask_entropy_loss(drawn["mask"])
        if config.size:
            size = mask_size_loss(drawn["mask"], config.size_low, config.size_high)
            losses["size"] = config.size * size
        if config.background:
            losses["background"] = config.background * drawn["saliency"].mean()
        if config.compares:
            images = compose(drawn["mask"], drawn["foreground"], drawn["background"])
            if config.reconstruction:
                distance = F.l1_loss(images, drawn["target"])
                losses["reconstruction"] = config.reconstruction * distance
            if any(self.perceptual):
                losses["perceptual"] = perceptual_loss(
                    features, images, drawn["target"], self.perceptual
                )
        if any(self.texture):
            sheets = make_sheets(drawn["target"], drawn["mask"], picks, self.config.patches)
            losses["texture"] = perceptual_loss(features, drawn["foreground"], sheets, self.texture)
        return losses


class ImageNetStage:
    """Trains the three mechanisms; see `Stage`.

    A step takes `accumulation` batches; the step's generator and the batch's number determine
    noise, classes and patches. The processes share the batches, so their number changes a step only
    by rounding. A step that is interrupted changes nothing.

    Arguments are those of `MechanismLosses`, and: `average`, a copy of the CGN that gets the
    running average of the weights; `stops`, which says on all processes at once whether to give up
    (see `Trainer.stops`); and `progress`, for a bar if steps are long.

    Raises:
        ArgumentError: the number of processes does not divide `accumulation`.
    """

    name = "mechanisms"

    def __init__(
        self,
        config: ImageNetConfig,
        cgn: ImageNetCGN,
        average: ImageNetCGN | None,
        target: BigGAN | None,
        features: PerceptualFeatures | None,
        accelerator: Accelerator,
        *,
        stops: Callable[[], bool] = lambda: False,
        progress: bool = False,
    ) -> None:
        self.config, self.num_steps = config, config.num_steps
        self.cgn, self.average = cgn, average
        self.accelerator, self.stops = accelerator, stops
        self.ranks = Ranks()
        if config.accumulation % self.ranks.num:
            raise ArgumentError(
                f"{self.ranks.num} processes cannot share out accumulation "
                f"({config.accumulation}) batches evenly: make it a multiple of {self.ranks.num}"
            )
        self._numbers = self.ranks.share(config.accumulation)
        self._silent = not (progress and self.ranks.is_main and len(self._numbers) >= _LONG)
        groups = trained_groups(config, cgn)
        self.model = accelerator.prepare(MechanismLosses(config, cgn, target, features))
        optimizer = torch.optim.Adam(
            groups, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
        )
        self.optimizers: Mapping[str, Any] = {"mechanisms": accelerator.prepare(optimizer)}

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains once on all batches of a step; see `Stage.step`."""
        optimizer, num = self.optimizers["mechanisms"], len(self._numbers)
        key = int(torch.randint(2**62, (), generator=generator))
        optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        bar = tqdm(self._numbers, f"step {step + 1}", leave=False, disable=self._silent)
        for place, number in enumerate(bar):
            if self.stops():
                bar.close()
                raise StepAbandonedError
            last = place + 1 == num
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                values = self._descend(step_generator(Purpose.TRAINING, key, number), num)
            for name, value in values.items():
                totals[name] = value / num + totals.get(name, torch.zeros_like(value))
        optimizer.step()
        self._settle(step)
        return totals

    def _descend(self, generator: torch.Generator, num: int) -> dict[str, Tensor]:
        """Adds the gradients of a batch, divided by `num`, to those of the batches before."""
        config, cgn = self.config, self.cgn
        noise = cgn.draw_noise(config.batch_size, generator)
        y = torch.randint(cgn.num_classes, (config.batch_size,), generator=generator)
        picks = draw_picks(config.batch_size, config.patches, generator)
        losses, mean_mask = self.model(noise, y.to(cgn.device), picks)
        total = torch.stack(list(losses.values())).sum()
        self.accelerator.backward(total / num)
        values = {name: loss.detach() for name, loss in losses.items()}
        return values if mean_mask is None else {**values, "mean mask": mean_mask}

    def _settle(self, step: int) -> None:
        """Updates what depends on the weights."""
        for mechanism in _mechanisms(self.cgn):
            if mechanism.embeddings.weight.requires_grad:
                mechanism.settle_norms(self.config.norm_iterations)
        if self.average is not None:
            update_average(self.average, self.cgn, self.config.average, step)
            for mechanism in _mechanisms(self.average):
                mechanism.settle_norms()  # an average of unit vectors is shorter than 1


def trained_groups(config: ImageNetConfig, cgn: ImageNetCGN) -> list[dict[str, Any]]:
    """Returns the mechanisms' weights with their learning rates; freezes those without a loss.

    Args:
        config: settings.
        cgn: the network to train.
    """
    losses, groups = config.losses, []
    for mechanism, rate, own in (
        (cgn.f_shape, config.shape_rate, losses.entropy or losses.size),
        (cgn.f_text, config.texture_rate, any(losses.texture)),
        (cgn.f_bg, config.background_rate, losses.background),
    ):
        reached = losses.compares or bool(own)
        mechanism.requires_grad_(reached)
        if reached:
            groups.append({"params": list(mechanism.parameters()), "lr": rate})
    return groups


def _mechanisms(cgn: ImageNetCGN) -> tuple[BigGAN, BigGAN, BigGAN]:
    return cgn.f_shape, cgn.f_text, cgn.f_bg
