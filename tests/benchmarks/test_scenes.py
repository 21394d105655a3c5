"""The reduced ImageNet problem: its judges, its measures, and the tool that runs all of it."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.scenes import prior as reduced_prior
from benchmarks.scenes import saliency as reduced_saliency
from benchmarks.scenes.evaluation import (
    CGNMetrics,
    Judges,
    SceneAccuracy,
    SceneJudge,
    change_scenes,
    load_judges,
    measure_accuracy,
    measure_cgn,
    measure_prior,
    save_judges,
    train_judges,
)
from benchmarks.scenes.images import NUM_CLASSES, make_scenes
from benchmarks.scenes.prior import (
    LAYERS,
    ReducedPriorConfig,
    codes_of_noise,
    scenes_of_noise,
)
from benchmarks.scenes.saliency import ReducedSaliencyConfig
from cgn_augment import UNetMasker
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import BigGANConfig
from cgn_augment.types import FACTORS
from train_generator.classifier import EnsembleConfig
from train_generator.imagenet import sheet as imagenet_sheet
from train_generator.imagenet.config import LossesConfig
from train_generator.mnist.judges import JudgeConfig
from train_generator.robustness import FactorShares

SCENES = BigGANConfig(NUM_CLASSES, 32, 4, LAYERS, attention_at=4)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("benchmarks.scenes.__main__")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets of a training are empty: each takes seconds to draw."""
    for module in (imagenet_sheet, reduced_prior, reduced_saliency):
        monkeypatch.setattr(module, "draw_sheet", lambda *_: Figure())


class Bright(UNetMasker):
    """Takes for an object what is brighter than grey."""

    def logits(self, images: Tensor) -> Tensor:
        return images.mean(dim=1, keepdim=True)


class ClassInCorner(nn.Module):
    """Reads the classes of shape, texture and background in the first three pixels."""

    def forward(self, images: Tensor) -> Tensor:
        classes = images[:, 0, 0, :3].mul(4).add(4).round().long().clamp(0, NUM_CLASSES - 1)
        return nn.functional.one_hot(classes, NUM_CLASSES).mT.float()


JUDGES = Judges(ClassInCorner(), Bright(1))  # type: ignore[arg-type]


class TrueScenes(nn.Module):
    """In place of a CGN and a prior: draws the true masks of a noise, white and black images."""

    config, noise_dim = SCENES, 32

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num, 32, generator=generator).clamp(-2, 2)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        return scenes_of_noise(noise, y, torch.Generator()).masks

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        return self._plain(y, 1, 1.0)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        return self._plain(y, 2, -1.0)

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        images = self.shape(noise, y).expand(-1, 3, -1, -1) * 2 - 1
        images = images.clone()
        images[:, 0, 0, :3] = ((y - 4) / 4)[:, None]
        return images

    def _plain(self, y: Tensor, place: int, value: float) -> Tensor:
        images = torch.full((len(y), 3, 64, 64), value)
        images[:, 0, 0, place] = (y - 4) / 4
        return images


def test_judges_are_written_and_read(tmp_path: Path) -> None:
    judges = train_judges(16, JudgeConfig(num_steps=2, batch_size=8))
    save_judges(judges, tmp_path)
    again, images = load_judges(tmp_path), make_scenes(3).images
    assert torch.equal(again.classes(images), judges.classes(images))
    assert torch.equal(again.masker(images), judges.masker(images))
    assert isinstance(again.classes, SceneJudge)


def test_accuracy_counts_each_factor_alone() -> None:
    y = torch.arange(NUM_CLASSES)
    images = TrueScenes()(torch.zeros(8, 32), y)
    found = measure_accuracy(JUDGES, images, y, (y + 1) % 8, torch.zeros_like(y))
    assert found == SceneAccuracy(1, 0, 1 / 8)


def test_a_perfect_prior_measures_as_one() -> None:
    metrics = measure_prior(TrueScenes(), JUDGES, num=16)  # type: ignore[arg-type]
    assert metrics.accuracy == SceneAccuracy(1, 1, 1)
    assert metrics.mask_overlap > 0.99
    assert metrics.spread > 0.5
    with pytest.raises(ArgumentError, match="two of each class"):
        measure_prior(TrueScenes(), JUDGES, num=15)  # type: ignore[arg-type]


def test_a_perfect_cgn_measures_as_one() -> None:
    perfect = TrueScenes()
    metrics = measure_cgn(perfect, perfect, JUDGES, num=16)  # type: ignore[arg-type]
    assert metrics.overlap > 0.99
    assert metrics.overlap_of_noise > 0.99
    assert 0.13 < metrics.mean_mask < 0.32
    assert metrics.undecided < 0.1
    assert metrics.error < 0.01
    # The corners of the counterfactuals, where masks are 0, are those of the background.
    assert metrics.counterfactual.background == 1
    assert metrics.counterfactual.texture < 1
    assert metrics.object_in_background < 0.001


def test_an_empty_mask_measures_as_none() -> None:
    class Nothing(TrueScenes):
        def shape(self, noise: Tensor, y: Tensor) -> Tensor:
            return torch.full((len(y), 1, 64, 64), 1e-4)

    metrics = measure_cgn(Nothing(), TrueScenes(), JUDGES, num=16)  # type: ignore[arg-type]
    assert (metrics.overlap, metrics.overlap_of_noise) == (0, 0)
    assert metrics.mean_mask == pytest.approx(1e-4)
    assert metrics.error > 0.2


def test_noise_of_a_scene_is_that_of_the_prior() -> None:
    noise, y = torch.randn(2, 32).clamp(-2, 2), torch.tensor([1, 5])
    assert codes_of_noise(noise, 1).shape[0] == 2
    first, other = (scenes_of_noise(noise, y, torch.Generator(), seed).masks for seed in (0, 1))
    assert not torch.equal(first, other)


def test_each_row_switches_one_loss_off(tool: ModuleType, tmp_path: Path) -> None:
    plan = tool.Plan()
    losses = {name: tool.row_config(plan, tmp_path, name).losses for name in tool.ROWS}
    assert losses["all losses"] == plan.losses
    assert losses["no shape loss"] == replace(plan.losses, entropy=0.0, size=0.0)
    assert losses["no texture loss"] == replace(plan.losses, texture=(0.0,) * 4)
    assert losses["no background loss"] == replace(plan.losses, background=0.0)
    assert len(losses) == 4


def test_the_table_has_a_line_for_each_row(tool: ModuleType) -> None:
    metrics = CGNMetrics(0.2, 0.01, 0.9, 0.8, 0.02, 0.05, SceneAccuracy(0.7, 0.6, 0.5))
    lines = tool.format_table({"all losses": metrics, "no shape loss": metrics}).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(
        "| all losses | 0.200 | 0.900 | 0.800 | 1.0 % | 2.0 % | 0.050 | 70.0"
    )
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.usefixtures("without_pictures")
def test_the_tool_takes_all_steps_once(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = LossesConfig(perceptual=(0.0,) * 4, texture=(0.0,) * 4)  # no network of features
    sizes = {"num_images": 8, "num_steps": 1, "batch_size": 2}
    plan = tool.Plan(
        JudgeConfig(num_steps=1, batch_size=4),
        8,
        ReducedPriorConfig(4, num_statistics=2, discriminator_width=4, coarse_steps=0, **sizes),
        8,
        ReducedSaliencyConfig(4, num_blobs=2, **sizes),
        cgn_steps=1,
        batch_size=2,
        losses=losses,
        ensemble=EnsembleConfig(num_epochs=1, batch_norm="train"),
        backbone="shufflenet_v2_x0_5",
        ensemble_images=8,
        ensemble_batch_size=4,
        bank=24,
        num_measured=16,
    )
    rows = ("all losses",)
    tool.run(plan, tmp_path, rows=rows)
    known = json.loads((tmp_path / "reduced_imagenet.json").read_text())
    assert set(known) == {"judges", "prior", "saliency", "cgn", "ensemble"}
    assert set(known["cgn"]) == set(rows)
    assert (tmp_path / "all-losses" / "cgn.png").is_file()
    assert (tmp_path / "sensitivity.png").is_file()
    for found in known["ensemble"].values():
        assert set(found) == {"counterfactuals", "real scenes"}
        assert set(found["real scenes"]["sensitivity"]["shape"]) == set(FACTORS)
    weights = "*.bin", "classifier.safetensors"
    paths = [path for pattern in weights for path in tmp_path.rglob(pattern)]
    written = {path: path.stat().st_mtime_ns for path in paths}
    assert len(written) == 4
    tool.run(plan, tmp_path, rows=rows)
    assert written == {path: path.stat().st_mtime_ns for path in paths}
    assert json.loads((tmp_path / "reduced_imagenet.json").read_text()) == known
    assert "| all losses |" in capsys.readouterr().out


def test_the_ensembles_table_shows_real_scenes(tool: ModuleType) -> None:
    shares = FactorShares(("shape", "texture"), ((0.9, 0.1, 0.0), (0.2, 0.8, 0.05)), 20)
    rows = {"accuracy": tool._as_rows(shares), "sensitivity": tool._as_rows(shares)}
    table = tool.format_ensembles({"mine": {"real scenes": rows, "counterfactuals": rows}})
    assert "| mine | texture | 20.0 % | 80.0 % | 5.0 % | 20.0 % | 80.0 % | 5.0 % |" in table


def test_a_changed_scene_differs_where_it_was_changed() -> None:
    [part] = change_scenes(8)
    assert not (part.classes == part.new_classes).any()
    scenes = part.images, *part.changed.values()
    assert {images.shape for images in scenes} == {(8, 3, 64, 64)}
    corner = (slice(None), slice(None), slice(0, 2), slice(0, 64))  # objects keep from the border
    away = {name: (images - part.images)[corner].abs() for name, images in part.changed.items()}
    assert away["background"].mean() > 3 * away["texture"].mean()
    again = [each.images for each in change_scenes(8)]
    assert torch.equal(again[0], part.images)
