"""Trainings of a reduced ImageNet CGN: what a step does, what it costs, resume, what is written."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from imagenet_helpers import REDUCED, make_reduced_cgn
from imagenet_training_helpers import make_config, make_start, tiny_features, write_start
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor

from cgn_augment import load_cgn
from cgn_augment.errors import ArgumentError, CheckpointError
from cgn_augment.functional import compose
from cgn_augment.generators import ImageNetCGN, continue_imagenet_cgn, read_metadata, save_cgn
from cgn_augment.generators.checkpoint import WEIGHTS
from train_generator.imagenet import training as imagenet_module
from train_generator.imagenet.card import write_imagenet_card
from train_generator.imagenet.config import ImageNetConfig
from train_generator.imagenet.sheet import draw_training
from train_generator.imagenet.stage import ImageNetStage, MechanismLosses
from train_generator.imagenet.training import ImageNetTraining, draw_targets, load_networks
from train_generator.training.trainer import CHECKPOINT

ZEROS = {
    **dict.fromkeys(("reconstruction", "entropy", "size", "background"), 0.0),
    **dict.fromkeys(("perceptual", "texture"), (0.0, 0.0, 0.0, 0.0)),
}


def make_stage(config: ImageNetConfig, **options: Any) -> ImageNetStage:
    cgn, target = make_start()
    accelerator = options.pop("accelerator", None) or Accelerator(cpu=True)
    return ImageNetStage(config, cgn, None, target, tiny_features(), accelerator, **options)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [name for name, value in module.state_dict().items() if not value.equal(before[name])]


# A step


def test_steps_minimise_the_losses_of_a_fixed_problem() -> None:
    stage = make_stage(make_config(batch_size=2, accumulation=1, texture_rate=5e-3))
    with torch.no_grad():
        stage.cgn.f_text.generator.conv_to_rgb.bias.add_(0.5)  # something to reconstruct
    before = {name: state_of(part) for name, part in stage.cgn.named_children()}
    first, *_, last = [stage.step(0, seeded()) for _ in range(4)]
    names = ["entropy", "size", "background", "reconstruction", "perceptual", "texture"]
    assert list(first) == [*names, "mean mask"]
    for name in ("reconstruction", "perceptual"):
        assert last[name] < first[name], name
    totals = [sum(float(each[name]) for name in names) for each in (first, last)]
    assert totals[1] < 0.995 * totals[0]
    assert 0 < float(last["mean mask"]) < 1
    for name in ("f_shape", "f_text", "f_bg"):
        assert changed(stage.cgn.get_submodule(name), before[name])
    assert changed(stage.cgn.u2net, before["u2net"]) == []


def test_masks_become_decided_by_gradients_through_u2net() -> None:
    stage = make_stage(make_config({**ZEROS, "entropy": 300.0}, accumulation=1))
    with torch.no_grad():
        stage.cgn.u2net.outconv.weight.mul_(30)  # so that masks depend on what is drawn
    entropies = [float(stage.step(0, seeded())["entropy"]) for _ in range(4)]
    assert all(after < before for before, after in pairwise(entropies))


def test_mechanisms_that_are_the_target_have_nothing_to_reconstruct() -> None:
    compares = {"reconstruction": 100.0, "perceptual": (4.0, 4.0, 4.0, 4.0)}
    losses = make_stage(make_config({**ZEROS, **compares}, accumulation=1)).step(0, seeded())
    assert float(losses["reconstruction"]) < 1e-3
    assert float(losses["perceptual"]) < 1


def test_the_losses_are_those_of_the_formulas() -> None:
    config = make_config(
        {**ZEROS, "reconstruction": 3.0, "background": 5.0, "size": 7.0, "size_low": 0.8}
    )
    cgn, target = make_start()
    with torch.no_grad():  # so that there is something to reconstruct
        cgn.f_text.generator.conv_to_rgb.bias.add_(0.5)
    noise, y = cgn.draw_noise(2, seeded()), torch.tensor([0, 3])
    losses, mean_mask = MechanismLosses(config, cgn, target, None)(noise, y, torch.zeros(2, 36))
    mask, background = cgn.shape(noise, y), cgn.background(noise, y)
    images = compose(mask, cgn.texture(noise, y), background)
    expected = {
        "size": 7 * (0.8 - mask.mean((1, 2, 3))).clamp(min=0).mean(),
        "background": 5 * cgn.u2net(background).mean(),
        "reconstruction": 3 * (images - target(noise, y)).abs().mean(),
    }
    assert list(losses) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)
    assert expected["reconstruction"] > 0.01
    torch.testing.assert_close(mean_mask, mask.mean())


def test_batches_that_are_accumulated_are_one_larger_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(accumulation=3)
    stage = make_stage(config)
    before, inputs = copy.deepcopy(stage.cgn), []
    model = stage.model

    def note(*batch: Tensor) -> Any:
        inputs.append(batch)
        return model(*batch)

    monkeypatch.setattr(stage, "model", note)
    logged = stage.step(0, seeded())
    _, target = make_start()
    once = MechanismLosses(config, before, target, tiny_features())
    losses, _ = once(*(torch.cat(parts) for parts in zip(*inputs, strict=True)))
    torch.stack(list(losses.values())).sum().backward()
    for name, value in losses.items():
        torch.testing.assert_close(logged[name], value.detach(), rtol=1e-4, atol=1e-4)
    for (name, ours), theirs in zip(stage.cgn.named_parameters(), before.parameters(), strict=True):
        if ours.requires_grad:
            assert ours.grad is not None, name
            assert theirs.grad is not None, name
            scale = float(theirs.grad.abs().max()) + 1e-6
            torch.testing.assert_close(ours.grad / scale, theirs.grad / scale, rtol=0, atol=2e-3)


def test_each_mechanism_has_its_learning_rate_and_adam_its_settings() -> None:
    config = make_config(shape_rate=1e-3, texture_rate=2e-3, background_rate=3e-3, beta1=0.5)
    stage = make_stage(config)
    groups = stage.optimizers["mechanisms"].param_groups
    assert [group["lr"] for group in groups] == [1e-3, 2e-3, 3e-3]
    assert {group["betas"] for group in groups} == {(0.5, 0.999)}
    assert {group["eps"] for group in groups} == {config.epsilon}
    mechanisms = (stage.cgn.f_shape, stage.cgn.f_text, stage.cgn.f_bg)
    for group, mechanism in zip(groups, mechanisms, strict=True):
        assert {id(w) for w in group["params"]} == {id(w) for w in mechanism.parameters()}


@pytest.mark.parametrize(
    ("losses", "runs", "trained"),
    [
        ({"entropy": 1.0}, {"f_shape", "u2net"}, {"f_shape"}),
        ({"background": 1.0}, {"f_bg", "u2net"}, {"f_bg"}),
        (
            {"texture": (0.0, 1.0, 0.0, 0.0)},
            {"f_shape", "f_text", "u2net", "target", "features"},
            {"f_text"},
        ),
        (
            {"reconstruction": 1.0},
            {"f_shape", "f_text", "f_bg", "u2net", "target"},
            {"f_shape", "f_text", "f_bg"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_loss_of_weight_0_runs_no_network_and_trains_nothing(
    losses: dict[str, Any], runs: set[str], trained: set[str]
) -> None:
    cgn, target = make_start()
    features = copy.deepcopy(tiny_features())
    networks = {"u2net": cgn.u2net, "target": target.generator, "features": features}
    for name in ("f_shape", "f_text", "f_bg"):
        networks[name] = cgn.get_submodule(name).generator
    ran: set[str] = set()
    for name, network in networks.items():
        network.register_forward_hook(lambda *_, name=name: ran.add(name))
    before = {name: state_of(part) for name, part in cgn.named_children()}
    config = make_config({**ZEROS, **losses}, accumulation=1)
    stage = ImageNetStage(config, cgn, None, target, features, Accelerator(cpu=True))
    assert set(stage.step(0, seeded())) - {"mean mask"} == set(losses)
    assert ran == runs
    assert {name for name, part in cgn.named_children() if changed(part, before[name])} == trained


def test_power_iterations_follow_the_weights_after_a_step() -> None:
    cgn, target = make_start()
    vectors = [name for name in cgn.f_bg.state_dict() if name.endswith("weight_u")]
    for iterations in (0, 3):
        config = make_config({**ZEROS, "background": 1.0}, norm_iterations=iterations)
        before = state_of(cgn.f_bg)
        ImageNetStage(config, cgn, None, target, None, Accelerator(cpu=True)).step(0, seeded())
        moved = set(changed(cgn.f_bg, before)) & set(vectors)
        assert bool(moved) == bool(iterations)
    weight = cgn.f_bg.generator.conv_to_rgb
    sigma = torch.linalg.matrix_norm(weight.weight_orig.flatten(1), 2)
    found = weight.weight_u @ weight.weight_orig.flatten(1) @ weight.weight_v
    torch.testing.assert_close(found, sigma, rtol=1e-3, atol=0)


def test_a_step_follows_from_its_generator_alone() -> None:
    config = make_config({**ZEROS, "background": 1.0})
    found = []
    for seed in (0, 0, 1):
        stage = make_stage(config)
        torch.rand(3)
        stage.step(0, seeded(seed))
        found.append(stage.cgn.f_bg.state_dict()["embeddings.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.fixture
def bf16() -> Iterator[Accelerator]:
    """An accelerator of bfloat16 on a CPU; the process's other precision comes back after it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_bfloat16_gives_nearly_the_same_losses_in_float32(bf16: Accelerator) -> None:
    config = make_config(accumulation=1)
    stage = make_stage(config, accelerator=bf16)
    exact = MechanismLosses(config, *make_start(), tiny_features())
    inputs: list[Any] = []
    stage.model.register_forward_pre_hook(lambda _, batch: inputs.extend(batch))
    found = stage.step(0, seeded())
    with torch.no_grad():
        expected, _ = exact(*inputs)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert found["entropy"] == pytest.approx(float(expected["entropy"]), rel=0.02)
    assert found["background"] == pytest.approx(float(expected["background"]), rel=0.02)
    assert all(value.isfinite() for value in found.values())
    weights = stage.cgn.f_shape.parameters()
    assert {weight.dtype for weight in weights} == {torch.float32}


# Whole trainings


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Files to start from; the features are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagenet_module, "make_features", tiny_features)
        yield write_start(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def trained(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> ImageNetTraining:
    """A training of one step that has ended."""
    training = make(tmp_path_factory.mktemp("trained"), files, num_steps=1, truncation=0.5)
    training.train()
    return training


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings read no files and draw no sheets."""
    monkeypatch.setattr(imagenet_module, "load_networks", make_start)
    monkeypatch.setattr(imagenet_module, "draw_training", lambda *_, **__: Figure())


def make(folder: Path, files: dict[str, str], **settings: Any) -> ImageNetTraining:
    options = {name: settings.pop(name) for name in ("resume", "save_every") if name in settings}
    config = make_config(**files | settings)
    return ImageNetTraining(config, folder, **{"progress": False, "sheet_every": 100} | options)


@pytest.mark.usefixtures("light")
def test_an_interrupted_training_ends_as_if_nothing_was(
    tmp_path: Path, files: dict[str, str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings: dict[str, Any] = {"average": 0.5, "metrics": {"every": 2}, "num_steps": 2}
    make(whole, files, **settings).train()
    training = make(parts, files, **settings)
    draw, count = training.cgn.draw_noise, iter(range(10))

    def press(num: int, generator: torch.Generator) -> Tensor:
        if next(count) == 2:  # Ctrl-C in the first batch of the second step, which is given up
            os.kill(os.getpid(), signal.SIGINT)
        return draw(num, generator)

    training.cgn.draw_noise = press  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        training.train()
    assert torch.load(parts / CHECKPOINT, weights_only=True)["position"] == (0, 1)
    make(parts, files, **settings, resume=True).train()
    ours, theirs = (load_file(folder / "cgn.safetensors") for folder in (whole, parts))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    states = [torch.load(folder / CHECKPOINT, weights_only=True) for folder in (whole, parts)]
    assert states[0]["settings"] == states[1]["settings"]
    for name, module in states[0]["modules"].items():
        other = states[1]["modules"][name]
        assert [key for key in module if not torch.equal(module[key], other[key])] == [], name
    measures = [(folder / "metrics.jsonl").read_text() for folder in (whole, parts)]
    assert measures[0] == measures[1]
    assert [json.loads(line)["step"] for line in measures[0].splitlines()] == [0, 2]


def test_the_folder_says_all(trained: ImageNetTraining) -> None:
    folder = trained.folder
    path = folder / "cgn.safetensors"
    card = write_imagenet_card(path, trained).read_text()
    assert {"cgn.safetensors", "cgn.md", "cgn.png", CHECKPOINT, "settings.json", "sheets"} <= {
        each.name for each in folder.iterdir()
    }
    settings = json.loads((folder / "settings.json").read_text())["settings"]
    assert settings["losses"]["background"] == 2000
    assert settings["patches"]["num_best"] == 100
    assert json.loads(read_metadata(path)["recipe"]) == settings
    assert "--truncation 0.5" in card
    cgn = load_cgn(path)
    assert isinstance(cgn, ImageNetCGN)
    assert cgn.truncation == 0.5
    assert cgn.fingerprint in card
    noise, y = cgn.draw_noise(1, seeded()), torch.tensor([2])
    drawn = trained.cgn.texture(noise, y)
    torch.testing.assert_close(cgn.texture(noise, y), drawn, rtol=0, atol=1e-4)


def test_a_training_goes_on_from_a_file_of_ours(
    trained: ImageNetTraining, files: dict[str, str]
) -> None:
    path = str(trained.folder / "cgn.safetensors")
    cgn, target = load_networks(make_config(biggan=files["biggan"], u2net=None, start=path))
    ours = load_file(path)
    assert all(torch.equal(ours[name], value) for name, value in cgn.state_dict().items())
    stage = ImageNetStage(make_config(), cgn, None, target, tiny_features(), Accelerator(cpu=True))
    stage.step(0, seeded())
    assert changed(cgn, ours)


@pytest.mark.usefixtures("light")
def test_resuming_with_other_targets_or_settings_is_refused(
    trained: ImageNetTraining, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, same = trained.folder, {"num_steps": 1, "truncation": 0.5}
    with pytest.raises(ArgumentError, match="holds a training: pass --resume"):
        make(folder, files, **same)
    other = {"texture_rate": 1.0, "losses": {"entropy": 3.0}}
    with pytest.raises(CheckpointError, match=r"other settings \(losses.entropy.* texture_rate"):
        make(folder, files, **same, **other, resume=True)
    cgn, target = make_start()
    with torch.no_grad():
        target.embeddings.weight.add_(1)
    monkeypatch.setattr(imagenet_module, "load_networks", lambda _: (cgn, target))
    with pytest.raises(CheckpointError, match=r"other settings \(target"):
        make(folder, files, **same, resume=True)


def test_what_cannot_be_trained_further_is_an_error(tmp_path: Path, files: dict[str, str]) -> None:
    folded = tmp_path / "folded.safetensors"
    save_cgn(make_reduced_cgn().freeze(), folded)
    with pytest.raises(CheckpointError, match="holds folded weights, which cannot be trained"):
        continue_imagenet_cgn(folded)
    with pytest.raises(CheckpointError, match="is a small CGN"):
        continue_imagenet_cgn(WEIGHTS / "colored-mnist.safetensors")
    other = tmp_path / "other.safetensors"
    save_cgn(ImageNetCGN(replace(REDUCED, channel_width=8), unet_width=4), other)
    start = {"biggan": files["biggan"], "u2net": None, "start": str(other)}
    with pytest.raises(ArgumentError, match="mechanisms of other sizes"):
        make(tmp_path / "run", start)
    assert not (tmp_path / "run").exists()


def test_trained_features_learn_from_images_of_every_class() -> None:
    cgn, target = make_start()
    images, labels = draw_targets(cgn, target, num=13, seed=3)
    assert labels.tolist() == [number % 6 for number in range(13)]
    assert images.shape == (13, 3, 32, 32)
    again, _ = draw_targets(cgn, target, num=13, seed=3)
    assert torch.equal(images, again)


# Sheets


def test_a_sheet_has_a_row_for_each_stage_and_fixed_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cgn, target = make_start()
    drawn: list[dict[str, Tensor]] = []
    sheet: Callable[..., Any] = lambda rows, captions: drawn.append(rows)  # noqa: E731
    monkeypatch.setattr("train_generator.imagenet.sheet.draw_sheet", sheet)
    for _ in range(2):
        draw_training(cgn, target, classes=[1, 4], seed=5)
    rows, again = drawn
    names = ["premask", "mask", "foreground", "background", "composite", "target"]
    assert list(rows) == names
    assert all(len(images) == 2 for images in rows.values())
    assert all(torch.equal(rows[name], again[name]) for name in names)
    composed = compose(rows["mask"], rows["foreground"], rows["background"])
    assert torch.equal(rows["composite"], composed)
