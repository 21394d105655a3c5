"""Trains a reduced U2-Net to find the object of a scene: the "pretrained" saliency network.

The published U2-Net learned from photographs with objects outlined by hand, not from ImageNet. So
this one learns from images with true masks that show no class of the scenes: random blobs, with
textures and grounds of the scenes' families in all combinations. Some images have no object, so
that it does not learn to expect one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.scenes.images import (
    NUM_CLASSES,
    SCENE_CODES,
    Scenes,
    make_scenes,
    render_scenes,
)
from benchmarks.scenes.silhouettes import Silhouettes, blob_silhouettes
from benchmarks.scenes.training import write_state
from cgn_augment.checks import (
    require_counts,
    require_positive,
    require_shares,
    require_weights,
)
from cgn_augment.functional import Purpose, isolated_rng, step_generator, step_seed
from cgn_augment.generators import U2Net
from cgn_augment.generators.truncation import draw_truncated
from cgn_augment.pictures.sheets import draw_sheet
from train_generator.small.batches import RealImages
from train_generator.small.masker import one_cycle
from train_generator.training.stages import descend
from train_generator.training.trainer import Stage, Trainer, check_folder

SALIENCY_FILE = "u2net.bin"


@dataclass(frozen=True)
class ReducedSaliencyConfig:
    """Settings of the reduced saliency network.

    Args:
        width: of U2-Net; a multiple of 4.
        num_images: that are drawn before the training.
        num_blobs: outlines that they have.
        empty_share: of images without an object, in [0, 1).
        num_steps: steps.
        batch_size: images a step.
        learning_rate: the highest, Adam.
        noise: standard deviation of Gaussian noise on what it sees.
        seed: of everything that is drawn.

    Raises:
        ArgumentError: a number that cannot be used.
    """

    width: int = 8
    num_images: int = 4096
    num_blobs: int = 512
    empty_share: float = 0.15
    num_steps: int = 800
    batch_size: int = 16
    learning_rate: float = 3e-3
    noise: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self, "num_images", "num_blobs", "num_steps")
        require_counts(self, "batch_size", least=2)
        require_counts(self, "seed", least=0)
        require_positive(self, "learning_rate")
        require_weights(self, "noise")
        require_shares(self, "empty_share")


def make_salient(
    num: int, num_blobs: int = 512, empty_share: float = 0.15, seed: int = 0
) -> Scenes:
    """Draws scenes of random blobs, some of them without an object.

    Args:
        num: of images.
        num_blobs: outlines; `shape` counts them, and is num_blobs where there is no object.
        empty_share: of images without an object.
        seed: of everything that is drawn.

    Examples:
        >>> from benchmarks.scenes.saliency import make_salient
        >>> scenes = make_salient(4, num_blobs=2, empty_share=0.5)
        >>> scenes.masks.shape
        torch.Size([4, 1, 64, 64])
    """
    generator = step_generator(Purpose.SOURCE, seed, num, num_blobs)
    silhouettes = _with_nothing(blob_silhouettes(num_blobs, seed))
    shape = torch.randint(num_blobs, (num,), generator=generator)
    shape[torch.rand(num, generator=generator) < empty_share] = num_blobs
    texture, background = torch.randint(NUM_CLASSES, (2, num), generator=generator)
    codes = draw_truncated(num, SCENE_CODES, generator)
    images, masks = render_scenes(codes, shape, texture, background, generator, silhouettes)
    return Scenes(images, masks, shape, texture, background)


class SaliencyStage:
    """Trains `u2net` on images with masks by binary cross-entropy; see `Stage`."""

    name = "saliency"

    def __init__(
        self,
        config: ReducedSaliencyConfig,
        u2net: U2Net,
        scenes: Scenes,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.num_steps = config, config.num_steps
        self.u2net, self.accelerator, self.scenes = u2net, accelerator, scenes
        self.order = RealImages(scenes.images, scenes.shape, config.seed)
        adam = torch.optim.Adam(u2net.parameters(), config.learning_rate)
        self.schedule = one_cycle(adam, config.learning_rate, config.num_steps)
        self.optimizers: Mapping[str, Any] = {
            "u2net": accelerator.prepare(adam),
            "schedule": self.schedule,
        }

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Trains on one batch; see `Stage.step`."""
        config = self.config
        chosen = self.order.choose(step, config.batch_size)
        images, masks = self.scenes.images[chosen], self.scenes.masks[chosen]
        images = images + config.noise * torch.randn(images.shape, generator=generator)
        self.u2net.train()
        loss = F.binary_cross_entropy(self.u2net(images), masks)
        descend(self.accelerator, self.optimizers["u2net"], loss)
        self.schedule.step()
        return {"cross entropy": loss.detach()}


class ReducedSaliencyTraining:
    """The training of the reduced saliency network; `train` takes it through.

    Args:
        config: settings.
        folder: where everything is written.
        resume: goes on with the training that the folder holds.
        progress: shows a bar on standard error.

    Raises:
        ArgumentError: the folder is a file, or holds a training and `resume` is False.
        CheckpointError: there is nothing to resume, it is damaged, or of other settings.

    Examples:
        >>> from benchmarks.scenes.saliency import (
        ...     ReducedSaliencyConfig,
        ...     ReducedSaliencyTraining,
        ... )
        >>> config = ReducedSaliencyConfig(width=4)
        >>> training = ReducedSaliencyTraining(config, getfixture("tmp_path"))
        >>> training.trainer.finished
        False
    """

    def __init__(
        self,
        config: ReducedSaliencyConfig,
        folder: Path,
        *,
        resume: bool = False,
        progress: bool = True,
    ) -> None:
        check_folder(folder, resume)
        self.config, self.folder, self.progress = config, folder, progress
        self.accelerator = Accelerator(cpu=True)
        with isolated_rng(step_seed(Purpose.WEIGHTS, config.seed), torch.device("cpu")):
            self.u2net = U2Net(config.width)
        self.u2net.to(memory_format=torch.channels_last)
        self.trainer = Trainer(
            folder,
            {"u2net": self.u2net},
            {"saliency": self._stage},
            asdict(config),
            seed=config.seed,
            draw=self.draw,
            resume=resume,
        )

    def train(self) -> Path:
        """Takes all steps that are left, and writes the network as the published one is.

        Returns:
            The network's file, which `load_u2net` reads.
        """
        self.trainer.train(progress=self.progress)
        return write_state(self.u2net, self.folder / SALIENCY_FILE)

    @torch.no_grad()
    def draw(self) -> Figure:
        """Draws scenes of each class, and what is found in them."""
        self.u2net.eval()
        rows: dict[str, Tensor] = {}
        for name, decorrelated in (("train", False), ("test", True)):
            images = make_scenes(NUM_CLASSES, self.config.seed, decorrelated=decorrelated).images
            rows |= {name: images, f"found in {name}": self.u2net(images)}
        return draw_sheet(rows)

    def _stage(self) -> Stage:
        config = self.config
        scenes = make_salient(config.num_images, config.num_blobs, config.empty_share, config.seed)
        return SaliencyStage(config, self.u2net, scenes, self.accelerator)


def _with_nothing(silhouettes: Silhouettes) -> Silhouettes:
    """Appends an outline that nothing is inside of."""
    outlines, distances, areas = silhouettes.outlines, silhouettes.distances, silhouettes.areas
    return Silhouettes(
        torch.cat([outlines, outlines[:1]]),
        torch.cat([distances, torch.ones_like(distances[:1])]),
        torch.cat([areas, areas[:1]]),
    )
