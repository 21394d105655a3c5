"""The tool that trains the recipe with one thing changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import load_tool

from train_generator.mnist import GeneratorMetrics, make_variant
from train_generator.small.config import SmallConfig
from train_generator.training.checkpoints import CHECKPOINT

METRICS = GeneratorMetrics(0.5, (0.5,) * 10, 1.0, None, 0.0, 0.2, 0.9, 0.8, 0.7, None, num=60)


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    return load_tool("ablation")


def test_each_row_has_settings_of_its_own_and_the_recipe_has_none(ablation: ModuleType) -> None:
    recipe = SmallConfig()
    configs = [ablation.change(recipe, changes) for changes in ablation.CHANGES.values()]
    assert configs[0] == recipe
    assert len({repr(config) for config in configs}) == len(configs)


def test_a_short_training_has_short_stages_and_the_rest_as_it_was(ablation: ModuleType) -> None:
    short = ablation.shorten(SmallConfig(seed=3), 40)
    stages = short.factors, short.masker, short.texturing, short.shapes
    assert [stage.num_steps for stage in stages] == [40, 10, 40, 40]
    assert (short.seed, short.factors.batch_size) == (3, SmallConfig().factors.batch_size)
    assert (short.factors.entropy_warmup, short.shapes.class_warmup) == (6, 10)
    left_out = ablation.change(short, ablation.CHANGES["no-textures-stage"])
    assert (left_out.texturing.num_steps, left_out.factors) == (0, short.factors)


def test_rows_are_trained_in_folders_of_their_own_and_gone_on_with(
    ablation: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained, made = [], make_variant("colored", "train", num=40)

    class Training:
        def __init__(self, config: SmallConfig, _: object, folder: Path, resume: bool) -> None:
            trained.append((config, folder.name, resume))
            self.folder = folder

        def train(self) -> Path:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / CHECKPOINT).touch()
            return self.folder

        def find_masks(self, most: int) -> torch.Tensor:
            return made.masks[:most]

    for name, stub in {
        "SmallTraining": Training,
        "make_variant": lambda *_, **__: made,
        "load_judges": lambda *_: None,
        "load_cgn": lambda path: path,
        "measure_generator": lambda *_, **__: METRICS,
    }.items():
        monkeypatch.setattr(ablation, name, stub)
    command = ["ablation.py", str(tmp_path), "--variant", "colored", "--steps", "8"]
    monkeypatch.setattr("sys.argv", [*command, "--rows", "recipe", "no-class-loss"])
    for _ in range(2):
        ablation.main()
    rows = ["recipe", "no-class-loss"]
    assert [(name, resume) for _, name, resume in trained] == [
        (name, resume) for resume in (False, True) for name in rows
    ]
    assert trained[1][0].shapes.class_weight == 0
    assert trained[1][0].factors.num_steps == 8
    written = json.loads((tmp_path / "ablation.json").read_text())
    assert list(written["rows"]) == rows
    assert written["rows"]["recipe"]["shape_accuracy"] == 0.5
    assert written["rows"]["no-class-loss"]["mask_iou"] == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == rows
    assert lines[2].rstrip(" |").endswith("1.000")
