"""The invariant ensemble: its heads, the backbones it stands on, and its file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from ensemble_helpers import make_tiny
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision import models

from cgn_augment.errors import ArgumentError, CheckpointError, FileError, MissingPackageError
from cgn_augment.functional import isolated_rng
from train_generator.classifier import (
    load_ensemble,
    make_ensemble,
    save_ensemble,
)
from train_generator.classifier.backbones import find_preprocessing, make_backbone
from train_generator.classifier.ensemble import FORMAT

SHUFFLENET, EFFICIENTNET = "shufflenet_v2_x0_5", "timm/test_efficientnet"
NORMAL = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


def images(num: int = 2, size: int = 32) -> Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A classifier of torchvision for four classes, as somebody has trained it."""
    with isolated_rng(3, torch.device("cpu")):
        return models.get_model(SHUFFLENET, num_classes=4).eval()


@pytest.fixture
def weights(network: torch.nn.Module, tmp_path: Path) -> Path:
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    return tmp_path / "backbone.pth"


def test_all_heads_see_the_same_features() -> None:
    model = make_tiny(num_classes=4).eval()
    features = model.backbone(images())
    for factor, logits in model(images())._asdict().items():
        assert logits.shape == (2, 4)
        torch.testing.assert_close(logits, model.heads[factor](features))


def test_logits_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = make_tiny()(images())
    assert {head.dtype for head in logits} == {torch.float32}


def test_heads_start_as_the_classifier_of_as_many_classes(
    network: torch.nn.Module, weights: Path
) -> None:
    model = make_ensemble(SHUFFLENET, 4, backbone_file=weights).eval()
    with torch.no_grad():
        expected, logits = network(images()), model(images())
    for head in (*logits, logits.average()):
        torch.testing.assert_close(head, expected)
    assert model.origin == (
        f"{SHUFFLENET}, weights of {weights}; heads: copies of the backbone's classifier"
    )


def test_heads_of_other_classes_are_new_and_unlike(weights: Path) -> None:
    model = make_ensemble(SHUFFLENET, 3, backbone_file=weights)
    shape, texture, background = (head.weight for head in model.heads.values())
    assert shape.shape == (3, 1024)
    assert not torch.equal(shape, texture)
    assert not torch.equal(texture, background)
    assert "new weights, since the backbone's classifier has 4 classes and not 3" in model.origin


PREFIXES = {"of DataParallel": "module.", "compiled": "_orig_mod.", "both": "module._orig_mod."}


@pytest.mark.parametrize("form", ["safetensors", "wrapped", *PREFIXES, "without the head"])
def test_files_of_weights_have_many_forms(
    form: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    state: dict[str, Any] = network.state_dict()
    path = tmp_path / "other.pth"
    if form == "safetensors":
        path = tmp_path / "other.safetensors"
        save_file(state, path)
    elif form == "without the head":
        torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    else:
        prefix = PREFIXES.get(form, "")
        torch.save({"epoch": 3, "state_dict": {prefix + k: v for k, v in state.items()}}, path)
    model = make_ensemble(SHUFFLENET, 4, backbone_file=path)
    assert torch.equal(model.backbone.conv5[0].weight, network.conv5[0].weight)
    start = "new weights" if form == "without the head" else "copies"
    assert f"heads: {start}" in model.origin


def test_a_file_that_is_not_the_backbones_is_an_error(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds another network than the backbone .*Missing"):
        make_ensemble("mnasnet0_5", 4, backbone_file=weights)
    with pytest.raises(FileError, match=r"there is no file .*none.pth of weights"):
        make_ensemble(SHUFFLENET, 4, backbone_file=tmp_path / "none.pth")
    state = torch.load(weights)
    state["fc.bias"][1] = torch.nan
    torch.save(state, weights)
    with pytest.raises(CheckpointError, match=r"fc.bias holds NaN or infinity"):
        make_ensemble(SHUFFLENET, 4, backbone_file=weights)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"no state dict of a network, or is cut off: get it"):
        make_ensemble(SHUFFLENET, 4, backbone_file=weights)


@pytest.mark.parametrize(
    ("name", "library", "function"),
    [(SHUFFLENET, "torchvision.models", "get_model"), (EFFICIENTNET, "timm", "create_model")],
)
def test_weights_that_cannot_be_had_are_an_error_and_never_random(
    name: str, library: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **options: object) -> None:
        assert options.get("weights") or options.get("pretrained")
        raise URLError("no network")

    monkeypatch.setattr(importlib.import_module(library), function, fail)
    with pytest.raises(FileError, match=r"weights of .* cannot be had here .*no network.*https://"):
        make_ensemble(name, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", r"torchvision has no image classifier 'resnet5' \(there are resnet50"),
        ("fasterrcnn_resnet50_fpn", "torchvision has no image classifier 'fasterrcnn"),
        ("timm/test_resnot", r"timm has no model 'test_resnot' \(there are test_resnet"),
        ("squeezenet1_0", "squeezenet1_0 does not end in one linear layer"),
        ("timm/deit_tiny_distilled_patch16_224", "does not end in one linear layer"),
        ("resnet18.IMAGENET1K_V2", "resnet18 has the weights IMAGENET1K_V1, not IMAGENET1K_V2"),
    ],
)
def test_a_backbone_that_cannot_be_is_an_error(name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_backbone(name, pretrained=False)


def test_timm_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ImportError

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(MissingPackageError, match=r"pip install 'cgn-augment\[timm\]', or take"):
        make_ensemble(EFFICIENTNET, 4)


@pytest.mark.parametrize(
    ("backbone", "classes"), [("vit_h_14", ["a", "b"]), (SHUFFLENET, ["a"] * 10**5)]
)
def test_a_file_that_names_a_larger_network_than_it_holds_takes_no_memory(
    backbone: str, classes: list[str], weights: Path, tmp_path: Path
) -> None:
    header = {"backbone": backbone, "classes": json.dumps(classes), "format": FORMAT}
    header |= {"mean": "[0, 0, 0]", "std": "[1, 1, 1]", "image_size": "32", "origin": "elsewhere"}
    save_file({"a": torch.zeros(3)}, tmp_path / "small.safetensors", header)
    with pytest.raises(CheckpointError, match="the network has more values than") as told:
        load_ensemble(tmp_path / "small.safetensors")
    assert len(str(told.value).splitlines()) == 1


def test_an_ensemble_has_two_classes_or_more() -> None:
    with pytest.raises(ArgumentError, match="num_classes must be 2 or more, got 1"):
        make_ensemble(SHUFFLENET, 1, pretrained=False)


def test_the_preprocessing_is_that_of_the_weights() -> None:
    assert find_preprocessing("resnet50").image_size == 224
    assert find_preprocessing(SHUFFLENET).std == (0.229, 0.224, 0.225)
    timms = find_preprocessing("timm/test_resnet")
    assert (timms.mean, timms.image_size) == ((0.5, 0.5, 0.5), 160)


def test_new_weights_follow_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        make_ensemble(EFFICIENTNET, 4, pretrained=False, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.heads["shape"].weight, other.heads["shape"].weight)


def test_a_saved_ensemble_comes_back(tmp_path: Path) -> None:
    model = make_ensemble(EFFICIENTNET, 3, pretrained=False).eval()
    path = tmp_path / "mine.safetensors"
    save_ensemble(model, path, classes="abc", image_size=48, **NORMAL, note={"seed": 1})
    loaded = load_ensemble(path)
    assert loaded.classes == ("a", "b", "c")
    assert (loaded.mean, loaded.std, loaded.image_size) == (NORMAL["mean"], NORMAL["std"], 48)
    assert loaded.model.preprocessing.image_size == 48
    assert loaded.model.origin == model.origin == f"{EFFICIENTNET}, new weights; heads: new weights"
    assert loaded.metadata["note"] == '{"seed": 1}'
    assert not loaded.model.training
    assert not any(value.requires_grad for value in loaded.model.parameters())
    with torch.no_grad():
        for ours, theirs in zip(loaded.model(images()), model(images()), strict=True):
            assert torch.equal(ours, theirs)


def test_what_cannot_be_saved_is_an_error(tmp_path: Path) -> None:
    model, path = make_tiny(num_classes=3), tmp_path / "mine.safetensors"
    with pytest.raises(ArgumentError, match="classes must name the 3 classes of the ensemble"):
        save_ensemble(model, path, classes=["a"], image_size=32, **NORMAL)
    with pytest.raises(ArgumentError, match="mean and std must be three numbers each"):
        save_ensemble(model, path, classes="abc", mean=(0.5,), std=(0.5,), image_size=32)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_ensemble_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    with pytest.raises(FileError, match=r"should be an ensemble: train one with train-gen"):
        load_ensemble(path)
    model = make_ensemble(EFFICIENTNET, 3, pretrained=False)
    save_ensemble(model, path, classes="abc", image_size=48, **NORMAL)
    header = load_ensemble(path).metadata
    state = {name: value.clone() for name, value in load_file(path).items()}  # not the mapped file
    save_file(state, path, {**header, "format": "other/1"})
    with pytest.raises(CheckpointError, match="has the format 'other/1' and an ensemble has"):
        load_ensemble(path)
    save_file(state, path, {**header, "classes": '["a", "b"]'})
    with pytest.raises(CheckpointError, match="does not hold the ensemble that it describes"):
        load_ensemble(path)
