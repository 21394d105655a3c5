"""Inception score and FID of images, in one or several processes.

Salimans et al., "Improved Techniques for Training GANs", NeurIPS 2016, and Heusel et al., "GANs
Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017. The
formulas are torchmetrics', and the network is torch-fidelity's port of the published Inception-v3.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from cgn_augment.checks import require_package
from cgn_augment.errors import ArgumentError, CheckpointError, FileError
from cgn_augment.files import download, first_line
from cgn_augment.functional import isolated_rng
from cgn_augment.generators.tensors import unpickle

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


def load_inception(inception: str, *, progress: bool = True) -> nn.Module:
    """Returns Inception-v3 with both outputs: pooled features, and logits without their bias.

    It maps images (N, 3, H, W) uint8 to features (N, 2048) and logits (N, 1008).

    Args:
        inception: "download", or the path of torch-fidelity's weights, which are read without
            running any code in the file.
        progress: shows a bar on standard error while downloading.

    Raises:
        CheckpointError: the download failed, or the file is damaged, would run code, or belongs to
            another network.
        FileError: the file does not exist.
        MissingPackageError: torch-fidelity is not installed.
    """
    fidelity = require_metrics("torch_fidelity.feature_extractor_inceptionv3")
    path = Path(inception).expanduser()
    if inception == "download":
        remedy = (
            "leave metrics.inception out, which measures the mean mask alone; or fetch "
            f"{URL} where there is a network and pass its path"
        )
        what = "the weights of Inception-v3"
        path = download(URL, what, remedy=remedy, progress=progress)
    elif not path.is_file():
        raise FileError(
            f"there is no file {path}: pass torch-fidelity's weights of Inception-v3 ({URL}), "
            "or 'download'"
        )
    try:
        unpickle(path)  # refuses code, which the next line would run
        network: nn.Module = fidelity.FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(path),
        )
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not hold torch-fidelity's weights of Inception-v3: fetch {URL} "
            f"({first_line(error)})"
        ) from error
    return network.eval().requires_grad_(False)


class InceptionMeasures:
    """Collects the outputs of Inception-v3, and computes Inception score and FID.

    With torch.distributed each process updates with its own images, and all of them compute.

    Args:
        network: maps images (N, 3, H, W) uint8 to features (N, D) and logits (N, C).
        splits: parts of the images whose Inception scores are averaged.

    Raises:
        MissingPackageError: torchmetrics is not installed.

    Examples:
        >>> import torch
        >>> from train_generator.metrics.inception import InceptionMeasures
        >>> class TwoColours(torch.nn.Module):
        ...     def forward(self, images):
        ...         grey = images.float().mean((1, 2, 3)) / 255
        ...         return grey[:, None], 1000 * torch.stack([grey, 1 - grey], dim=1)
        >>> measures = InceptionMeasures(TwoColours(), splits=1)
        >>> measures.update(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4))
        >>> round(measures.compute(seed=0)["inception score"], 3)  # two sure and equal classes
        2.0
    """

    def __init__(self, network: nn.Module, splits: int = 10) -> None:
        inception = require_metrics("torchmetrics.image.inception")
        self.network, self.splits = network, splits
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it keeps the logits, which are few
            self.score: Any = inception.InceptionScore(nn.Identity(), splits)
        self.distance: Any = None

    @torch.no_grad()
    def add_real(self, batches: Iterable[Tensor]) -> None:
        """Adds real images, so that the FID is computed too; they stay for all later calls.

        Args:
            batches: images (N, 3, H, W) uint8.
        """
        for images in batches:
            self._update_distance(self.network(images)[0], real=True)

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Adds generated images (N, 3, H, W) float in [-1, 1].

        Args:
            images: (N, 3, H, W) float in [-1, 1].
        """
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features, logits = self.network(pixels)
        self.score.to(images.device).update(logits.double())
        if self.distance is not None:
            self._update_distance(features, real=False)

    def compute(self, seed: int) -> dict[str, float]:
        """Returns the measures of all images since the last call, and forgets those images.

        Args:
            seed: seed of the split into parts.

        Raises:
            ArgumentError: the FID needs at least two images.
        """
        with isolated_rng(seed, torch.device("cpu")), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deviation of one part is NaN, and not returned
            score, deviation = self.score.compute()
        values = {"inception score": float(score)}
        if self.splits > 1:
            values["inception score deviation"] = float(deviation)
        if self.distance is not None:
            try:
                values["fid"] = float(self.distance.compute())
            except RuntimeError as error:
                raise ArgumentError(f"the FID cannot be computed: {first_line(error)}") from error
            self.distance.reset()
        self.score.reset()
        return values

    def _update_distance(self, features: Tensor, *, real: bool) -> None:
        if self.distance is None:
            fid = require_metrics("torchmetrics.image.fid")
            self.distance = fid.FrechetInceptionDistance(
                _Given(features.shape[1]), reset_real_features=False
            )
        self.distance.to(features.device).update(features, real=real)


class _Given(nn.Identity):
    """Stands for a network; its input is the features themselves."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def require_metrics(name: str) -> ModuleType:
    """Imports a module of the optional packages.

    Args:
        name: name of the module.

    Raises:
        MissingPackageError: it is not installed.
    """
    return require_package(name, "metrics", f"Inception score and FID need {name.split('.')[0]}")
