"""The whole of the ImageNet part, as a user runs it: train, sample, classify, evaluate."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import run_command
from imagenet_helpers import LAYERS
from imagenet_training_helpers import make_start, write_start
from PIL import Image
from robustness_helpers import make_cue_conflicts, make_imagenet9

import cgn_augment.cli.program
import train_generator.cli.program
from cgn_augment import load_cgn
from cgn_augment.functional import isolated_rng
from cgn_augment.generators import BigGANConfig, ImageNetCGN

CLASSES = 1000
BIGGAN = BigGANConfig(CLASSES, 8, 4, LAYERS, attention_at=4, num_statistics=51)
OUTPUTS = {"shape", "texture", "background", "average", "background_free"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reduced weights, a picture of each of 1000 classes twice, and both sets of conflicts."""
    folder = tmp_path_factory.mktemp("pipeline")
    with isolated_rng(0, torch.device("cpu")):
        cgn = ImageNetCGN(BIGGAN, unet_width=4)
        cgn.f_shape.settle_norms(50)
    torch.save(cgn.f_shape.state_dict(), folder / "biggan.bin")
    torch.save(cgn.u2net.state_dict(), folder / "u2net.pth")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    for split in ("train", "val"):
        for y in range(CLASSES):
            path = folder / split / f"class{y:04d}" / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(images[y % 8]).save(path)
    make_cue_conflicts(folder / "conflicts")
    make_imagenet9(folder / "nine")
    return folder


def command(monkeypatch: pytest.MonkeyPatch, program: str, *words: object) -> None:
    """Runs a command line of one of the two programs."""
    package = {"train-generator": train_generator, "cgn-augment": cgn_augment}[program]
    assert run_command(package.cli.program.main, monkeypatch, *words) == 0


TRAINING = (
    "train-generator", "imagenet", "--device=cpu", "--batch_size=2", "--accumulation=1",
    "--norm_iterations=1", "--losses.features=random", "--metrics.num_images=4",
)  # fmt: skip


def test_a_cgn_is_trained_and_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f"--{name}={path}" for name, path in write_start(tmp_path / "weights").items()]
    run, samples = tmp_path / "cgn", tmp_path / "samples"
    command(monkeypatch, *TRAINING, *files, "--out", run, "--num_steps=1", "--metrics.every=0")
    cgn, (_, start) = load_cgn(run / "cgn.safetensors"), make_start()
    noise, y = cgn.draw_noise(2, torch.Generator().manual_seed(0)), torch.tensor([3, 5])
    moved = (cgn.texture(noise, y) - start(noise, y)).abs().mean()
    assert 1e-6 < moved < 0.1  # a step away from where it started
    command(
        monkeypatch, "cgn-augment", "sample", run / "cgn.safetensors", samples,
        "--num=3", "--save=[mask,composite]", "--shape=[0]",
    )  # fmt: skip
    with (samples / "labels.csv").open() as file:
        assert [row["shape"] for row in csv.DictReader(file)] == ["0"] * 3
    assert len(list(samples.rglob("*.png"))) == 6


@pytest.mark.slow
def test_a_cgn_of_all_classes_is_trained_and_streamed_and_its_classifier_evaluated(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "cgn"
    command(
        monkeypatch, *TRAINING, "--out", run, "--num_steps=3", "--metrics.every=2",
        "--biggan", place / "biggan.bin", "--u2net", place / "u2net.pth",
    )  # fmt: skip
    ensemble = tmp_path / "ensemble"
    command(
        monkeypatch, "train-generator", "classifier", place / "train", place / "val",
        "--out", ensemble, "--cgn", run / "cgn.safetensors", "--device=cpu",
        "--backbone=resnet18", "--pretrained=false", "--images.image_size=32",
        "--batch_size=50", "--ratio=0.5", "--source.bank=1000", "--source.refresh=2",
        "--training.num_epochs=1", "--training.batch_norm=train",
    )  # fmt: skip
    [epoch] = json.loads((ensemble / "results.json").read_text())["epochs"]
    assert epoch["loss"] == pytest.approx(
        sum(epoch[f"{name}_loss"] for name in ("real", "shape", "texture", "background")), rel=1e-4
    )
    assert min(epoch[f"{name}_loss"] for name in ("shape", "texture", "background")) > 1

    command(
        monkeypatch, "train-generator", "evaluate", ensemble / "classifier.safetensors",
        "--cue-conflict", place / "conflicts", "--in9", place / "nine", "--real", place / "val",
        "--cgn", run / "cgn.safetensors", "--num=20", "--out", tmp_path / "evaluation",
    )  # fmt: skip
    record = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    [parts] = record["classifiers"].values()
    assert set(parts) == {"cue_conflict", "imagenet9", "real", "factors"}
    for part in parts.values():
        assert set(part["rows"]) == OUTPUTS
    real = parts["real"]["rows"]["average"]
    assert (real["num_images"], real["accuracy"]) == (CLASSES, pytest.approx(epoch["accuracy"]))
    pictures = {path.stem for path in (tmp_path / "evaluation").glob("*.png")}
    assert pictures == {"shape_bias", "accuracy", "sensitivity", "changes"}
