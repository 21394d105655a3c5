"""The tool that trains the recipe with one thing changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import load_tool

from cgn_augment.masks import UNetMasker
from train_generator.mnist import GeneratorMetrics
from train_generator.small.config import SmallConfig
from train_generator.small.training import make_data

METRICS = GeneratorMetrics(0.5, (0.5,) * 10, 1.0, None, 0.0, 0.2, 0.9, 0.8, 0.7, None, num=60)


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    return load_tool("ablation")


def test_each_row_has_settings_of_its_own_and_the_recipe_has_none(ablation: ModuleType) -> None:
    recipe = SmallConfig("wildlife")
    configs = [ablation.change(recipe, changes) for changes in ablation.CHANGES.values()]
    assert configs[0] == recipe
    assert len({repr(config) for config in configs}) == len(configs)


def test_a_short_training_has_short_stages_and_the_rest_as_it_was(ablation: ModuleType) -> None:
    short = ablation.shorten(SmallConfig("colored", seed=3), 40)
    stages = short.factors, short.masker, short.texturing, short.shapes
    assert [stage.num_steps for stage in stages] == [40, 10, 40, 40]
    assert (short.seed, short.factors.batch_size) == (3, SmallConfig("colored").factors.batch_size)
    assert (short.factors.entropy_warmup, short.shapes.class_warmup) == (6, 10)
    left_out = ablation.change(short, ablation.CHANGES["no-textures-stage"])
    assert (left_out.texturing.num_steps, left_out.factors) == (0, short.factors)


def test_rows_are_trained_in_folders_of_their_own_and_kept(
    ablation: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = []

    class Training:
        def __init__(self, config: SmallConfig, folder: Path, resume: bool) -> None:
            trained.append((config, folder.name, resume))
            self.path = folder / ablation.CGN_FILE

        def train(self) -> Path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            return self.path

    monkeypatch.setattr(ablation, "SmallTraining", Training)
    monkeypatch.setattr(ablation, "measure", lambda *_: METRICS)
    monkeypatch.setattr(ablation, "measure_masks", lambda *_: 0.875)
    command = ["ablation.py", str(tmp_path), "--variant", "colored", "--steps", "8"]
    monkeypatch.setattr("sys.argv", [*command, "--rows", "recipe", "no-class-loss"])
    for _ in range(2):  # the second call trains nothing
        ablation.main()
    (tmp_path / "no-class-loss" / ablation.CGN_FILE).unlink()
    ablation.main()
    assert [(name, resume) for _, name, resume in trained] == [
        ("recipe", False),
        ("no-class-loss", False),
        ("no-class-loss", True),
    ]
    assert trained[1][0].shapes.class_weight == 0
    assert trained[1][0].factors.num_steps == 8
    written = json.loads((tmp_path / "ablation.json").read_text())
    assert list(written["rows"]) == ["recipe", "no-class-loss"]
    assert written["rows"]["recipe"]["shape_accuracy"] == 0.5
    assert written["rows"]["no-class-loss"]["mask_iou"] == 0.875
    printed = capsys.readouterr().out
    assert printed.count("| no-class-loss | 50.0 % |") == 3
    assert printed.count("| 0.875 |") == 6


def test_found_masks_are_those_of_the_last_masker(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ablation.shorten(SmallConfig("colored", num_train=200), 8)
    maskers = {"even masker": UNetMasker(4), "odd masker": UNetMasker(4)}
    for masker, everywhere in zip(maskers.values(), (-9.0, 9.0), strict=True):
        masker.head.weight.data.zero_()
        masker.head.bias.data.fill_(everywhere)
    monkeypatch.setattr(ablation, "UNetMasker", lambda: UNetMasker(4))
    states = {name: masker.state_dict() for name, masker in maskers.items()}
    torch.save({"modules": states}, tmp_path / ablation.CHECKPOINT)
    areas = make_data(config).masks.float().mean()
    assert ablation.measure_masks(tmp_path, config) == pytest.approx(float(areas), abs=1e-6)
