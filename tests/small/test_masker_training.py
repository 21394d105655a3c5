"""Training a masker by command, what it is saved as, and how good it is on real images."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tiny_cgn
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_helpers import make_images

from cgn_augment import load_cgn, load_masker
from cgn_augment.errors import ArgumentError, CheckpointError, FileError, UsageError
from cgn_augment.functional import isolated_rng
from cgn_augment.generators import SmallCGN
from cgn_augment.masks import UNetMasker, bundled_maskers, save_masker
from train_generator.metrics.masks import intersection_over_union
from train_generator.mnist import make_variant
from train_generator.small import masker_training
from train_generator.small.config import MaskerConfig
from train_generator.small.masker import MaskerStage
from train_generator.small.masker_training import MaskerTraining, write_masker_card

SMALL = MaskerConfig(num_steps=2, rounds=0, batch_size=4, num_factors=20)


def make_masker(seed: int = 0, width: int = 4) -> UNetMasker:
    with isolated_rng(seed, torch.device("cpu")):
        return UNetMasker(width)


# Files


def test_a_masker_is_saved_in_half_precision_and_loaded_frozen(tmp_path: Path) -> None:
    path, masker = tmp_path / "mine.safetensors", make_masker().eval()
    save_masker(masker, path, cgn="abc", seed=3)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["cgn"] == "abc"
        assert file.metadata()["seed"] == "3"
    again = load_masker(path)
    assert again.width == 4
    assert not again.train().training
    assert not any(weight.requires_grad for weight in again.parameters())
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    assert again(images).dtype == torch.float32
    torch.testing.assert_close(again(images), masker(images), atol=5e-3, rtol=0)
    assert again.fingerprint == load_masker(path).fingerprint != make_masker(1).fingerprint


def test_files_that_hold_no_masker_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_masker(make_masker(), path)
    state, broken = load_file(path), tmp_path / "broken.safetensors"
    header = {"format": "cgn_augment_masker/1", "config": '{"width": 4}'}

    def write(state: dict[str, torch.Tensor], **changes: str) -> None:
        save_file(state, broken, metadata={**header, **changes})

    broken.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut off or not a masker"):
        load_masker(broken)
    write(state, format="other")
    with pytest.raises(CheckpointError, match=r"has the format 'other' .* train-generator masker"):
        load_masker(broken)
    for config in ('{"width": 8}', '{"size": 4}', "width"):
        write(state, config=config)
        with pytest.raises(CheckpointError, match="does not hold the masker that it describes"):
            load_masker(broken)
    write({**state, "head.bias": torch.full((1,), float("nan"))})
    with pytest.raises(CheckpointError, match=r"head.bias holds NaN"):
        load_masker(broken)
    with pytest.raises(FileError, match="'nobody' is neither a file nor the name"):
        load_masker("nobody")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError):
            load_masker(path, device="cuda")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"saved as .safetensors, got 'mine.pth'"):
        save_masker(make_masker(), tmp_path / "mine.pth")
    with pytest.raises(ArgumentError, match=r"must not have the names \['format'\]"):
        save_masker(make_masker(), tmp_path / "mine.safetensors", format="mine")
    assert list(tmp_path.iterdir()) == []


# Measuring


def test_intersection_over_union_is_the_share_of_common_pixels() -> None:
    true = torch.zeros(4, 1, 4, 4, dtype=torch.bool)
    true[:3, :, :2] = True  # eight pixels, and none in the last
    found = true.clone()
    found[1, :, 2] = True  # four more
    found[2] = ~true[2]
    assert intersection_over_union(found, true).tolist() == pytest.approx([1, 8 / 12, 0, 1])
    with pytest.raises(ArgumentError, match="must be bool and of one shape"):
        intersection_over_union(found.float(), true)
    with pytest.raises(ArgumentError, match="must be bool and of one shape"):
        intersection_over_union(found[:2], true)


# Training


@pytest.fixture(autouse=True)
def _blank_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time."""
    blank = Figure(figsize=(1, 1))
    monkeypatch.setattr(masker_training, "draw_masks", lambda *_: blank)


def train(folder: Path, cgn: SmallCGN | None = None, **options: Any) -> Path:
    cgn = cgn or make_tiny_cgn().freeze()
    settings = {"progress": False, **options}
    return MaskerTraining(cgn, SMALL, folder, **settings).train()


def test_a_training_is_a_function_of_generator_and_seed(tmp_path: Path) -> None:
    prints = [
        load_masker(train(tmp_path / name, **options)).fingerprint
        for name, options in {
            "first": {},
            "same": {},
            "seed": {"seed": 1},
            "cgn": {"cgn": make_tiny_cgn(seed=1).freeze()},
        }.items()
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_folder_is_not_trained_in_twice_unasked(tmp_path: Path) -> None:
    train(tmp_path / "run")
    with pytest.raises(ArgumentError, match="holds a training: pass --resume"):
        train(tmp_path / "run")
    train(tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="other settings"):
        train(tmp_path / "run", make_tiny_cgn(seed=1).freeze(), resume=True)


def test_rounds_want_real_images(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="2 rounds take real images apart, and there are none"):
        MaskerTraining(make_tiny_cgn().freeze(), replace(SMALL, rounds=2), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:no .* could be completed:UserWarning")  # two steps find nothing
def test_a_stopped_training_is_resumed_to_the_same_masker_with_the_same_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, num_steps=2, rounds=1, num_textures=2)
    data, _ = make_images()
    cgn = make_tiny_cgn(num_classes=3).freeze()

    def start(folder: str, images: torch.Tensor, **options: bool) -> str:
        real = (images, data.labels)
        options = {"progress": False, **options}
        return load_masker(
            MaskerTraining(cgn, config, tmp_path / folder, real, **options).train()
        ).fingerprint

    whole = start("whole", data.images)
    step, taken = MaskerStage.step, []

    def stop(*arguments: Any) -> Any:
        taken.append(1)
        if len(taken) == 3:  # the first step of the round on real images
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MaskerStage, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            start("stopped", data.images)
    with pytest.raises(CheckpointError, match="real"):
        start("stopped", data.images.flip(3), resume=True)
    assert start("stopped", data.images, resume=True) == whole


@pytest.mark.slow
def test_rounds_find_better_masks_in_real_images(tmp_path: Path) -> None:
    """A generator that draws no digits teaches little; what is found then teaches more."""
    data = make_variant("colored", "train", num=300)
    config = MaskerConfig(num_steps=40, batch_size=16, num_factors=200, rounds=0)
    cgn, real = load_cgn("double-colored-mnist"), (data.images, data.labels)
    overlaps = []
    for rounds in (0, 2):
        config = replace(config, rounds=rounds)
        run = MaskerTraining(cgn, config, tmp_path / str(rounds), real, width=8, progress=False)
        masker = load_masker(run.train())
        found = masker(data.images) > 0.5
        overlaps.append(intersection_over_union(found, data.masks).mean())
    assert overlaps[1] > overlaps[0]


def test_a_card_without_images_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "masker.safetensors"
    save_masker(make_masker(), path)
    card = write_masker_card(path, "mine", seconds=90).read_text()
    assert card.startswith("# Masker of mine\n")
    assert "time: 1.5 minutes" in card
    assert "true masks" not in card


@pytest.mark.parametrize("name", bundled_maskers())
def test_bundled_maskers_are_small_and_belong_to_bundled_generators(name: str) -> None:
    from cgn_augment.masks.checkpoint import WEIGHTS

    path = WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size < 1_000_000
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["cgn"] == load_cgn(name).fingerprint
    card = path.with_suffix(".md").read_text()
    assert load_masker(name).fingerprint in card
    assert path.with_suffix(".png").is_file()
