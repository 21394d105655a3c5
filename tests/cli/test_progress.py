"""Every command that may take long has a bar, and a last line that says where its results are."""

from __future__ import annotations

import io
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_red_masker, make_tiny_cgn, run_command
from imagenet_training_helpers import write_start
from safetensors.torch import save_file
from small_helpers import write_folders
from tqdm import tqdm

from cgn_augment.cli import program as plugin
from cgn_augment.generators import save_cgn
from cgn_augment.masks.checkpoint import save_masker
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.writing import write_parts
from train_generator.classifier import MNISTClassifier, make_ensemble
from train_generator.cli import mnist
from train_generator.cli import program as trainer
from train_generator.mnist import AppearanceJudge, JudgeConfig, Judges, load_shape_judge

BACKBONE = "timm/test_efficientnet"
FEW_STEPS = pytest.mark.filterwarnings("ignore:no (fore|back)ground of the classes:UserWarning")
COMMANDS = {
    "sample": ("cgn-augment sample cgn.safetensors found --num=4", "found"),
    "masks": ("cgn-augment masks images found --masker=unet.safetensors", "found"),
    "parts": ("cgn-augment parts images found --masks=masks --num-workers=0", "found"),
    "parts-masker": (
        "cgn-augment parts images found --masker=unet.safetensors --masks=made",
        "found",
    ),
    "parts-left-out": ("cgn-augment parts images found --masks=few --num-workers=0", "found"),
    "review": ("cgn-augment parts review parts --page=found.html", "found.html"),
    "shards": ("cgn-augment shards --cgn=cgn.safetensors --out=found --num=4", "found"),
    "small": (
        "train-generator small --images=images --out=found --device=cpu"
        " --factors.num_steps=2 --factors.batch_size=8 --factors.images_per_texture=2"
        " --factors.discriminator_width=4 --factors.blob_steps=2"
        " --masker.num_steps=2 --masker.batch_size=4 --masker.rounds=1 --masker.num_factors=30"
        " --masker.num_textures=2 --texturing.num_steps=2 --texturing.batch_size=4"
        " --texturing.num_textures=2 --shapes.num_steps=2 --shapes.batch_size=8",
        "found",
    ),
    "imagenet": (
        "train-generator imagenet --out=found --biggan=biggan.bin --u2net=u2net.pth --device=cpu"
        " --batch_size=2 --accumulation=1 --norm_iterations=1 --losses.features=random"
        " --num_steps=1 --metrics.every=0",
        "found",
    ),
    "masker": (
        "train-generator masker --images=images --masks=masks --out=found --num-steps=2"
        " --batch-size=2 --size=32 --width=2 --device=cpu",
        "found",
    ),
    "drawn": (
        "train-generator masker drawn --cgn=cgn.safetensors --images=images --masks=masks"
        " --out=found --width=2 --training.num_steps=2 --training.batch_size=2"
        " --training.rounds=0 --training.num_factors=20",
        "found",
    ),
    "classifier": (
        f"train-generator classifier images images --out=found --cgn=cgn.safetensors"
        f" --backbone={BACKBONE} --backbone_file=backbone.safetensors --batch_size=8"
        " --images.image_size=32 --source.bank=6 --training.num_epochs=1"
        " --training.batch_norm=real --device=cpu",
        "found",
    ),
    "evaluate": (
        "train-generator evaluate digits.pt --cgn=ten.safetensors --num=5 --out=found",
        "found",
    ),
    "measure": (
        "train-generator measure colored colored-mnist --num=60 --out=found.png",
        "found.png",
    ),
    "downstream": (
        "train-generator downstream found --variants=[colored] --rows=[decorrelated] --seeds=[0]"
        " --training.num_epochs=1 --training.num_train=64 --training.num_test=64",
        "found",
    ),
    "judge": ("train-generator judge found.safetensors", "found.safetensors"),
}


class Seen:
    """The bars of a command, as a terminal would show them once two seconds are over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.screens: list[io.StringIO] = []
        begin = tqdm.__init__

        def watch(bar: tqdm[Any], *given: Any, **options: Any) -> None:
            hidden = options.get("disable")
            screen = io.StringIO()
            shown = {"delay": 0, "mininterval": 0, "ncols": 120, "file": screen}
            begin(bar, *given, **{**options, **shown, "disable": hidden is True})
            if hidden is not True:
                self.screens.append(screen)

        monkeypatch.setattr(tqdm, "__init__", watch)

    def whole(self) -> list[str]:
        """Returns the last lines of the bars that say a share, a time left and a rate."""
        pattern = re.compile(r"\d+%\|.*\| *[\d.]+\w*/[\d.]+\w* \[[\d:]+<[\d:?]+, +[\d.?]+\S*/\S*")
        last = [screen.getvalue().split("\r")[-1] for screen in self.screens]
        return [line for line in last if pattern.search(line)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands read."""
    folder = tmp_path_factory.mktemp("progress")
    write_folders(folder, 12)
    shutil.copytree(folder / "masks", folder / "few")
    next((folder / "few").rglob("*.png")).unlink()
    config = PartConfig(masks=str(folder / "masks"))
    write_parts(folder / "images", folder / "parts", config, num_workers=0)
    write_start(folder)
    save_masker(make_red_masker(), folder / "unet.safetensors")
    save_cgn(make_tiny_cgn(num_classes=3), folder / "cgn.safetensors")
    save_cgn(make_tiny_cgn(), folder / "ten.safetensors")
    torch.save({"model": MNISTClassifier().state_dict()}, folder / "digits.pt")
    model = make_ensemble(BACKBONE, 2, pretrained=False)
    save_file(model.backbone.state_dict(), folder / "backbone.safetensors")
    return folder


@FEW_STEPS
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_its_progress_and_says_where_its_results_are(
    name: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    judges = Judges(load_shape_judge(), AppearanceJudge().eval(), None)
    monkeypatch.setattr(mnist, "load_judges", lambda *_, **__: judges)  # else trained for minutes
    monkeypatch.setattr(mnist, "JudgeConfig", partial(JudgeConfig, num_steps=1))
    seen = Seen(monkeypatch)
    line, out = COMMANDS[name]
    program, *words = line.split()
    main = {"cgn-augment": plugin.main, "train-generator": trainer.main}[program]
    assert run_command(main, monkeypatch, *words) == 0
    assert Path(out).exists()
    told = capsys.readouterr()
    assert out in told.out.splitlines()[-1]
    assert seen.whole(), "no bar has a share, a rate and the time left"
    assert "\x1b[3" not in told.out + told.err  # no colour where nobody looks
