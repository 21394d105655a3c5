"""Maskers of every kind, opened by name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mask_helpers import find_dark, write_onnx
from mask_rates import export
from torch import Tensor

from cgn_augment.errors import (
    ArgumentError,
    ArgumentTypeError,
    CGNError,
    CheckpointError,
    DataError,
    FileError,
    MissingPackageError,
)
from cgn_augment.functional import isolated_rng
from cgn_augment.generators.u2net import U2Net
from cgn_augment.masks import UNetMasker, load_masker, save_masker
from cgn_augment.masks.answers import OUT
from cgn_augment.masks.opening import open_masker
from cgn_augment.masks.segmentation import open_segmentation
from cgn_augment.masks.settings import MaskSettings

CENTRED = (0.5, 0.5, 0.5)
SMALL = "torchvision/lraspp_mobilenet_v3_large"


def images(size: int, num: int = 3) -> Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled network as .onnx, and weights of one of torchvision's."""
    from torchvision.models import get_model

    place = tmp_path_factory.mktemp("maskers")
    with isolated_rng(0, torch.device("cpu")):
        network = get_model(SMALL.partition("/")[2], weights=None, weights_backbone=None)
        torch.save(network.state_dict(), place / "lraspp.pth")
    export(load_masker("wildlife-mnist"), place / "mine.onnx", 32)
    return place


def test_a_network_in_onnx_finds_the_same_masks(folder: Path) -> None:
    ours = open_masker("wildlife-mnist")
    settings = MaskSettings(mean=CENTRED, std=CENTRED)  # to [-1, 1], as ours was trained
    theirs = open_masker(str(folder / "mine.onnx"), settings)
    assert ours.size == theirs.size == 32
    given = images(32, 5)
    masks = ours(given)
    assert masks.std() > 0.1
    torch.testing.assert_close(theirs(given), masks, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs(given[2:3]), masks[2:3], atol=1e-5, rtol=0)
    assert ours.fingerprint != theirs.fingerprint


@pytest.mark.slow
def test_u2net_in_onnx_is_normalised_by_its_name(tmp_path: Path) -> None:
    with isolated_rng(0, torch.device("cpu")):
        network = U2Net(width=4).eval()
    torch.save(network.state_dict(), tmp_path / "u2net.pth")
    export(network, tmp_path / "u2net.onnx", 64)
    theirs = open_masker(str(tmp_path / "u2net.onnx"))
    assert theirs.size == 64
    ours = open_masker(str(tmp_path / "u2net.pth"))
    torch.testing.assert_close(theirs(images(64)), ours(images(64)), atol=1e-5, rtol=0)


def test_a_u2net_sees_images_as_it_was_trained(tmp_path: Path) -> None:
    with isolated_rng(0, torch.device("cpu")):
        network = U2Net(width=4).eval()
    torch.save(network.state_dict(), tmp_path / "u2net.pth")
    masker = open_masker(str(tmp_path / "u2net.pth"))
    assert masker.size == 320
    given = images(64)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = network(((given + 1) / 2 - mean) / std)
    torch.testing.assert_close(masker(given), expected)


@pytest.mark.parametrize(
    ("name", "activation", "mean", "std"),
    [
        ("u2net", "none", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("isnet-general-use", "none", CENTRED, (1.0, 1.0, 1.0)),
        ("BiRefNet-general-epoch_244", "sigmoid", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_the_usual_files_are_known_by_name(
    tmp_path: Path, name: str, activation: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    path = write_onnx(tmp_path / f"{name}.onnx", "batch", "side")
    masker = open_masker(str(path))
    assert masker.size == (320 if name == "u2net" else 1024)
    given = torch.ones(2, 3, 16, 16)
    expected = ((1 - torch.tensor(mean)) / torch.tensor(std)).mean()
    if activation == "sigmoid":
        assert masker(given).unique().item() == pytest.approx(expected.sigmoid().item())
    elif name == "u2net":
        with pytest.raises(ArgumentError, match="which are no masks: pass activation sigmoid"):
            masker(given)
    else:
        assert masker(given).unique().item() == pytest.approx(expected.item())


def test_a_model_of_one_image_gets_one_at_a_time_and_no_mask_is_stretched(tmp_path: Path) -> None:
    settings = MaskSettings(mean=(0, 0, 0), std=(1, 1, 1))
    path = write_onnx(tmp_path / "other.onnx", 2, 16, scale=0.1)
    masker = open_masker(str(path), settings)
    assert masker.size == 16
    given = images(16, 5)
    expected = (given / 2 + 0.5).mean(dim=1, keepdim=True) * 0.1
    torch.testing.assert_close(masker(given), expected)
    with pytest.raises(ArgumentError, match="takes images of 16x16 pixels alone: leave size out"):
        open_masker(str(path), MaskSettings(size=32, mean=CENTRED, std=CENTRED))


def test_what_an_unknown_model_lacks_is_said(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "mine.onnx", "batch", "side")
    with pytest.raises(ArgumentError, match=r"images for mine.onnx are normalised: pass mean and "):
        open_masker(str(path), MaskSettings(mean=CENTRED))
    with pytest.raises(ArgumentError, match=r"how large images for mine.onnx are: pass size"):
        open_masker(str(path), MaskSettings(mean=CENTRED, std=CENTRED))
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"broken.onnx cannot be read as a model in ONNX"):
        open_masker(str(tmp_path / "broken.onnx"))


def test_a_network_of_torchvision_finds_classes(folder: Path) -> None:
    weights = str(folder / "lraspp.pth")
    whole = open_masker(SMALL, MaskSettings(weights=weights, size=64))
    some = {
        names: open_masker(SMALL, MaskSettings(weights=weights, classes=names, size=64))
        for names in ("cat", "dog, cat", "dog")
    }
    given = images(64)
    masks = {names: masker(given) for names, masker in some.items()}
    assert open_masker(SMALL, MaskSettings(weights=weights)).size == 520
    with torch.no_grad():
        network, _, _ = open_segmentation(SMALL, None, weights, torch.device("cpu"))
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        shares = network.network(((given + 1) / 2 - mean) / std)[OUT].softmax(dim=1)
    torch.testing.assert_close(whole(given), 1 - shares[:, :1])
    torch.testing.assert_close(masks["cat"], shares[:, 8:9])
    torch.testing.assert_close(masks["dog, cat"], masks["cat"] + masks["dog"])
    assert len({masker.fingerprint for masker in (whole, *some.values())}) == 4


def test_a_function_is_a_masker() -> None:
    masker = open_masker(find_dark)
    assert (masker.size, open_masker(find_dark, MaskSettings(size=64)).size) == (320, 64)
    assert torch.equal(masker(images(16)), find_dark(images(16)))
    with pytest.raises(DataError, match=r"masks must be in \[0, 1\]"):
        open_masker(lambda given: given[:, 0] * 100)(images(16))
    with pytest.raises(ArgumentTypeError, match=r"<lambda>\(images\).* gave a float"):
        open_masker(lambda given: 0.5)(images(16))


def test_bundled_and_trained_maskers_and_grabcut_are_opened_by_name(tmp_path: Path) -> None:
    save_masker(UNetMasker(width=4), tmp_path / "mine.safetensors")
    assert open_masker(str(tmp_path / "mine.safetensors"), MaskSettings(size=64)).size == 64
    masker = open_masker("wildlife-mnist")
    assert masker.size == 32
    assert torch.equal(masker(images(32)), load_masker("wildlife-mnist")(images(32)))
    given = torch.full((2, 3, 32, 32), 0.8)
    given[:, :, 10:20, 8:24] = -0.6
    assert torch.equal(open_masker("grabcut")(given), find_dark(given))


@pytest.mark.parametrize(
    ("name", "settings", "error", "told"),
    [
        ("nothing", {}, FileError, "there is no masker 'nothing': a masker is a file model.onnx"),
        ("u2net.onnx", {}, FileError, "there is no file u2net.onnx"),
        ("torchvision/resnet50", {}, ArgumentError, "take one of deeplabv3_mobilenet"),
        (SMALL, {"weights": "no.pth"}, FileError, "no file no.pth, which should be a state dict"),
        (SMALL, {"weights": "FOLDER/mine.onnx"}, CheckpointError, "cannot be read as a st"),
        (SMALL, {"weights": "FOLDER/lraspp.pth", "classes": "owl"}, ArgumentError, "no class owl"),
        (
            "torchvision/fcn_resnet50",
            {"weights": "FOLDER/lraspp.pth"},
            CheckpointError,
            "are not weights of fcn_resnet50 with 21 classes",
        ),
        (SMALL, {"mean": CENTRED}, ArgumentError, "has no mean: leave it out"),
        ("wildlife-mnist", {"classes": "cat"}, ArgumentError, "has no classes: leave it out"),
        ("wildlife-mnist", {"size": 30}, ArgumentError, "must be a multiple of 4, got 30"),
        ("grabcut", {"std": CENTRED}, ArgumentError, "grabcut has no std"),
    ],
)
def test_what_cannot_be_opened_is_said(
    folder: Path, name: str, settings: dict[str, object], error: type[CGNError], told: str
) -> None:
    given = {
        key: value.replace("FOLDER", str(folder)) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    with pytest.raises(error, match=told):
        open_masker(name, MaskSettings(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": 0}, "size must be 1 or more"),
        ({"std": (1, 0, 1)}, "std must be above 0"),
        ({"mean": (1, 2)}, "mean must be one number or three"),
        ({"edges": "soft"}, "edges must be one of none, guided, grabcut"),
        ({"activation": "relu"}, "activation must be one of none, sigmoid"),
    ],
)
def test_settings_that_make_no_sense_are_an_error(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        MaskSettings(**settings)  # type: ignore[arg-type]


def test_a_missing_onnxruntime_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"needs onnxruntime: .*cgn-augment\[onnx\]"):
        open_masker(str(folder / "mine.onnx"))


KNOWN = MaskSettings(mean=0.0, std=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch", "size"), [(2**40, 32), (1, 10**6), (1, 30_000), (10**4, 320)])
def test_a_file_that_asks_for_all_memory_is_refused(batch: int, size: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"takes {batch} images of {size}x{size} pixels"):
        open_masker(str(write_onnx(tmp_path / "a.onnx", batch, size)), KNOWN)


def test_a_size_that_is_none_is_that_of_the_settings(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", -1, -1)
    opened = open_masker(str(path), replace(KNOWN, size=16))
    assert opened(torch.zeros(3, 3, 16, 16)).shape == (3, 1, 16, 16)


@pytest.mark.parametrize(
    "answer",
    [np.zeros(()), np.zeros((1, 1, 32, 32)), np.full((2, 1, 32, 32), "a"), [np.zeros(3)], {"a": 1}],
)
def test_an_answer_that_is_no_mask_is_said(answer: object, tmp_path: Path) -> None:
    opened = open_masker(str(write_onnx(tmp_path / "a.onnx", 1, 32)), KNOWN)
    model = replace(opened.run, batch=None, session=Mock(**{"run.return_value": [answer]}))  # type: ignore[type-var]
    with pytest.raises(CheckpointError, match="which is no mask for each"):
        replace(opened, run=model)(torch.zeros(2, 3, 32, 32))
