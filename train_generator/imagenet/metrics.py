"""Measurements while an ImageNet CGN trains: mean mask, Inception score, FID."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import Purpose, compose, step_generator, step_seed
from cgn_augment.generators import ImageNetCGN
from cgn_augment.images.image_table import below
from cgn_augment.images.places import find_files
from train_generator.imagenet.config import MetricsConfig
from train_generator.metrics.folders import read_batches
from train_generator.metrics.inception import InceptionMeasures, load_inception
from train_generator.training.ranks import Ranks


class CGNMeasures:
    """Draws composed images of random classes, the same at each call, and measures them.

    One noise and one class go to all three mechanisms, as in training. Image i is a function of the
    seed and i, so neither batch size nor number of processes changes it.

    Args:
        config: what to measure.
        cgn: the network to draw from; it may change from call to call.
        seed: seed of noise and classes.
        ranks: the processes, which share the images; all of them must call.
        network: replaces Inception-v3; see `InceptionMeasures`.
        progress: shows a bar while Inception-v3 is downloaded.

    Raises:
        ArgumentError: there are more processes than images.
        DataError: the folder of real images cannot be used.
        CheckpointError: Inception-v3 is not available.
        FileError: its file does not exist.
        MissingPackageError: an optional package is not installed.

    Examples:
        >>> from cgn_augment.generators import ImageNetCGN
        >>> from train_generator.imagenet.config import MetricsConfig
        >>> from train_generator.imagenet.metrics import CGNMeasures
        >>> layers = [(False, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)]
        >>> sizes = dict(num_classes=5, noise_dim=8, channel_width=4, layers=layers, attention_at=2)
        >>> cgn = ImageNetCGN(sizes, unet_width=4)
        >>> list(CGNMeasures(MetricsConfig(num_images=2), cgn)())
        ['mean mask']
    """

    def __init__(
        self,
        config: MetricsConfig,
        cgn: ImageNetCGN,
        *,
        seed: int = 0,
        ranks: Ranks | None = None,
        network: nn.Module | None = None,
        progress: bool = False,
    ) -> None:
        self.config, self.cgn, self.seed = config, cgn, seed
        self.ranks = ranks or Ranks()
        # Report problems with the files before the training.
        self._real = None if config.real is None else find_real_paths(config.real)
        least = min(config.num_images, len(self._real or range(config.num_images)))
        if self.ranks.num > least:
            raise ArgumentError(
                f"{self.ranks.num} processes cannot share {least} images out: give num_images, and "
                "real images, of that number or more"
            )
        if network is None and config.inception is not None:
            network = load_inception(config.inception, progress=progress)
        if network is not None:
            network = network.to(cgn.device)
        self.inception = None if network is None else InceptionMeasures(network, config.splits)

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Returns the measures by name."""
        self._add_real()
        numbers, total = self.ranks.share(self.config.num_images), 0.0
        for start in range(0, len(numbers), self.config.batch_size):
            mask, images = self._draw(numbers[start : start + self.config.batch_size])
            total += float(mask.double().mean((1, 2, 3)).sum())
            if self.inception is not None:
                self.inception.update(images)
        drawn = {"mask": torch.tensor(total), "num": torch.tensor(float(len(numbers)))}
        sums = self.ranks.mean(drawn)
        values = {"mean mask": sums["mask"] / sums["num"]}
        if self.inception is not None:
            values |= self.inception.compute(step_seed(Purpose.MEASURE, self.seed))
        return values

    def _draw(self, numbers: range) -> tuple[Tensor, Tensor]:
        cgn = self.cgn
        generators = [step_generator(Purpose.MEASURE, self.seed, number) for number in numbers]
        noise = torch.cat([cgn.draw_noise(1, generator) for generator in generators])
        y = torch.cat([torch.randint(cgn.num_classes, (1,), generator=g) for g in generators])
        y = y.to(cgn.device)
        mask = cgn.shape(noise, y)
        return mask, compose(mask, cgn.texture(noise, y), cgn.background(noise, y))

    def _add_real(self) -> None:
        """Reads this process's real images, at the first call only."""
        if self._real is None or self.inception is None:
            return
        own = [self._real[number] for number in self.ranks.share(len(self._real))]
        batches = read_batches(own, self.cgn.image_size, self.config.batch_size)
        self.inception.add_real(images.to(self.cgn.device) for images in batches)
        self._real = None


def find_real_paths(place: str) -> list[str]:
    """Returns the paths of the real images of a place.

    Args:
        place: as for `MetricsConfig.real`.
    """
    root, files = find_files(place, least=2)
    return [below(root, file) for file in files]
