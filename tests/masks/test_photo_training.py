"""A masker that learns from masks drawn by hand: what it is given, what it learns, its file."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18

from cgn_augment import load_masker
from cgn_augment.errors import ArgumentError, CheckpointError, DataError, FileError, UsageError
from cgn_augment.masks.opening import open_masker
from cgn_augment.masks.writing import write_masks
from train_generator.masks import training
from train_generator.masks.augmenting import Augmenter
from train_generator.masks.config import PhotoMaskerConfig
from train_generator.masks.data import Annotated, find_pairs, hold_out, read_annotated, read_pair
from train_generator.masks.stage import PhotoStage, dice_loss
from train_generator.masks.training import PhotoMaskerTraining, measure_pairs, write_photo_card

TINY = PhotoMaskerConfig(num_steps=3, batch_size=4, size=32, width=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photographs of a bright box on a dark ground, of two shapes, eight of them with masks."""
    rng = np.random.default_rng(0)
    for number in range(10):
        height, width = ((40, 60), (64, 48))[number % 2]
        pixels = rng.integers(0, 90, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        top, left = rng.integers(4, 18, 2)
        mask[top : top + 18, left : left + 22] = 255
        pixels[mask > 0] += 130
        for folder, image in (("images", pixels), ("masks", mask)):
            path = tmp_path / folder / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if folder == "images" or number < 8:
                Image.fromarray(image).save(path)
    return tmp_path


@pytest.fixture(autouse=True)
def _blank_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time."""
    monkeypatch.setattr(training, "draw_sheet", lambda *_: Figure(figsize=(1, 1)))


def start(photos: Path, name: str, config: PhotoMaskerConfig = TINY, **options: Any) -> Any:
    options = {"progress": False, "device": "cpu", **options}
    return PhotoMaskerTraining(
        config, photos / "images", photos / "masks", photos / name, **options
    )


# What it is given


def test_images_without_a_mask_are_left_aside_and_some_are_held_out(photos: Path) -> None:
    pairs = find_pairs(photos / "images", photos / "masks")
    assert len(pairs) == 8
    learned, held = hold_out(pairs, 0.3, seed=0)
    assert (len(learned), len(held)) == (5, 3)
    assert sorted(learned + held) == sorted(pairs)
    assert hold_out(pairs, 0.3, seed=0) == (learned, held)
    assert hold_out(pairs, 0.3, seed=1) != (learned, held)
    assert hold_out(pairs, 0.0, seed=0) == (pairs, [])
    with pytest.raises(DataError, match="of 8 masks 6 are held out, and 4 or more"):
        hold_out(pairs, 0.7, seed=0)


def test_pairs_are_read_as_the_masker_will_see_them(photos: Path) -> None:
    pairs = find_pairs(photos / "images", photos / "masks")
    annotated = read_annotated(pairs, 32)
    assert annotated.images.shape == annotated.backgrounds.shape == (8, 3, 32, 32)
    assert annotated.masks.shape == (8, 1, 32, 32)
    seen: list[torch.Tensor] = []

    def look(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images[:, :1] > 0

    look.size = 32
    write_masks(photos / "images", photos / "found", look)
    shown = ((torch.cat(seen) + 1) * 127.5).round().byte()
    names = sorted(path.relative_to(photos / "found") for path in (photos / "found").rglob("*.png"))
    for pair, image in zip(pairs, annotated.images, strict=True):
        place = names.index(Path(pair.name))
        assert torch.equal(shown[place], image), pair.name
    inside = annotated.masks > 0.5
    objects = inside.expand_as(annotated.images)
    assert annotated.images[objects].float().mean() > 150
    assert annotated.backgrounds[objects].float().mean() < 90  # the object is gone


def spoil(photos: Path, kind: str) -> None:
    path = photos / "masks" / "cat" / "0.png"
    if kind == "none":
        for mask in list((photos / "masks").rglob("*.png"))[:5]:
            mask.unlink()
    elif kind == "size":
        Image.new("L", (8, 8), 255).save(path)
    elif kind == "broken":
        path.write_bytes(b"no image")
    elif kind == "EPS":
        Image.new("L", (60, 40), 255).save(path, "EPS")
    elif kind in ("black", "white"):
        Image.new("L", (60, 40), kind).save(path)
    else:
        (photos / "images" / "cat" / "0.jpg").write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", r"3 images of .* have a mask in .*, and 4 or more are needed"),
        ("size", r"0.png has 8x8 pixels and .*0.png 60x40: fit them"),
        ("broken", "0.png cannot be read as a mask: replace or remove it"),
        ("EPS", r"0.png cannot be read as a mask: .* \(cannot identify image file"),
        ("black", "0.png shows no object: make the object white"),
        ("white", "0.png shows nothing but object: make the object white, and the rest black"),
        ("two", "have one mask: rename one of them"),
    ],
)
def test_masks_that_cannot_be_used_are_named(photos: Path, kind: str, message: str) -> None:
    spoil(photos, kind)
    with pytest.raises(DataError, match=message):
        read_annotated(find_pairs(photos / "images", photos / "masks"), 32)
    with pytest.raises(DataError, match="there is no folder"):
        find_pairs(photos / "images", photos / "nowhere")


def test_augmented_masks_stay_on_their_objects_and_backgrounds_change() -> None:
    """Objects are bright, grounds dark, and the other images' backgrounds blue."""
    masks = torch.zeros(4, 1, 64, 64)
    masks[:, :, 20:44, 16:40] = 1
    images = (masks * 200 + 20).expand(-1, 3, -1, -1).byte()
    blue = torch.tensor([0, 0, 200], dtype=torch.uint8)[None, :, None, None].expand(4, 3, 64, 64)
    augmenter = Augmenter(Annotated(images, masks, blue), recombine=0.5)
    torch.manual_seed(0)
    made, found = augmenter.draw(16, torch.Generator().manual_seed(0))
    brightness = made.mean(dim=1, keepdim=True)
    sure = (found < 0.01) | (found > 0.99)
    threshold = (
        brightness.amax(dim=(2, 3), keepdim=True) + brightness.amin(dim=(2, 3), keepdim=True)
    ) / 2
    agree = ((brightness > threshold) == (found > 0.5))[sure].float().mean()
    assert agree > 0.97
    areas = (found > 0.5).flatten(1).float().mean(dim=1)
    assert areas.max() / areas.min() > 1.5  # they differ in size
    colourful = (made.amax(dim=1) - made.amin(dim=1)).flatten(1).amax(dim=1)
    assert (colourful[:8] > 0.3).sum() >= 5  # some lose their colour
    assert (colourful[8:] < 0.3).all()


def test_the_dice_loss_is_the_overlap_of_areas() -> None:
    true = torch.zeros(2, 1, 4, 4)
    true[0, :, :2] = 1  # eight pixels
    found = true.clone()
    found[0, :, 0] = 0  # and four of them
    assert dice_loss(found, true).item() == pytest.approx((1 - (2 * 4 + 1) / (8 + 4 + 1)) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "size must be a multiple of 32, got 100"),
        ({"batch_size": 1}, "batch_size must be 2 or more, got 1"),
        ({"holdout": 1.0}, "holdout"),
        ({"recombine": -0.1}, "recombine"),
        ({"backbone": "vgg16"}, "backbone"),
        ({"backbone_file": "a.pth"}, "backbone_file has the weights of a backbone: say which"),
    ],
)
def test_settings_that_cannot_be_used_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        PhotoMaskerConfig(**options)


# Training


def test_a_stopped_training_is_resumed_to_the_same_masker(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    path = start(photos, "whole").train()
    assert torch.equal(torch.get_rng_state(), before)
    whole, step, taken = load_masker(path).fingerprint, PhotoStage.step, []

    def stop(*arguments: Any) -> Any:
        taken.append(1)
        if len(taken) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PhotoStage, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            start(photos, "stopped").train()
    with pytest.raises(ArgumentError, match="holds a training: pass --resume"):
        start(photos, "stopped")
    with pytest.raises(CheckpointError, match="seed"):
        start(photos, "stopped", seed=1, resume=True)
    run = start(photos, "stopped", resume=True)
    assert load_masker(run.train()).fingerprint == whole
    assert run.measure().shape == (2,)
    first, second = (training.make_masker(TINY, seed).fingerprint for seed in (0, 1))
    assert first != second


def test_the_card_says_what_was_measured(photos: Path) -> None:
    run = start(photos, "run")
    path = run.train()
    card = write_photo_card(run, path).read_text()
    assert "trained on 6 images with masks at 32 pixels" in card
    assert f"on 2 images that were held out: {float(run.measure().mean()):.3f}" in card
    assert path.with_suffix(".png").is_file()
    run = start(photos, "all", replace(TINY, holdout=0.0))
    assert "nothing was held out" in write_photo_card(run, run.train()).read_text()
    with pytest.raises(ArgumentError, match="hold some out"):
        run.measure()


def test_masks_are_compared_at_their_own_size_as_they_are_written(photos: Path) -> None:
    run = start(photos, "run")
    path = run.train()
    write_masks(photos / "images", photos / "found", str(path))
    for pair, overlap in zip(run.held, run.measure(), strict=True):
        with Image.open(photos / "found" / pair.name) as file:
            found = np.asarray(file) > 127
        true = read_pair(pair)[1] > 0.5
        expected = (found & true).sum() / (found | true).sum()
        assert float(overlap) == pytest.approx(expected, abs=0.03)  # masks are rounded to bytes
    assert open_masker(str(path)).size == 32


def test_a_backbone_comes_from_a_file_or_from_torchvision_and_never_silently_new(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, backbone="resnet18")
    state = resnet18(weights=None).state_dict()
    torch.save(state, photos / "resnet18.pth")
    with_file = replace(config, backbone_file=str(photos / "resnet18.pth"))
    own = training.make_masker(with_file, 0).down.state_dict()
    assert torch.equal(own["conv1.weight"], state["conv1.weight"])

    def give(self: ResNet18_Weights, **options: Any) -> dict[str, torch.Tensor]:
        assert options["check_hash"]
        return state

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", give)
    own = training.make_masker(config, 0).down.state_dict()
    assert torch.equal(own["layer4.1.bn2.weight"], state["layer4.1.bn2.weight"])

    def fail(self: ResNet18_Weights, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(FileError, match=r"resnet18 cannot be had here \(no network\): fetch http"):
        training.make_masker(config, 0)
    with pytest.raises(FileError, match=r"there is no file .*nowhere.pth"):
        training.make_masker(replace(config, backbone_file="nowhere.pth"), 0)
    del state["layer4.1.bn2.weight"]
    torch.save(state, photos / "resnet18.pth")
    with pytest.raises(CheckpointError, match="has other weights than resnet18"):
        training.make_masker(with_file, 0)
    torch.save([1], photos / "resnet18.pth")
    with pytest.raises(CheckpointError, match=r"is not a state dict .* but a list: save"):
        training.make_masker(with_file, 0)
    (photos / "resnet18.pth").write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="cannot be read as a state dict"):
        training.make_masker(with_file, 0)


def test_a_gpu_that_is_not_there_is_told(photos: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="torch sees no GPU here"):
        start(photos, "run", device="cuda")


@pytest.mark.gpu
def test_it_learns_on_a_gpu(photos: Path) -> None:
    run = start(photos, "run", replace(TINY, num_steps=20, precision="bf16"), device="cuda")
    assert load_masker(run.train(), device="cuda").size == 32
    assert run.measure().shape == (2,)


@pytest.mark.slow
def test_it_finds_what_it_has_learned_in_images_that_were_held_out(photos: Path) -> None:
    config = PhotoMaskerConfig(
        num_steps=120, batch_size=8, size=64, width=8, holdout=0.25, average=0.9
    )
    run = start(photos, "run", config)
    before = measure_pairs(load_masker(start(photos, "one", TINY).train()), run.held).mean()
    run.train()
    assert run.measure().mean() > max(0.8, before)
