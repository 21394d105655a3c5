"""The network that finds objects in photographs, with and without a backbone, and its file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18
from torchvision.transforms.functional import normalize

from cgn_augment import load_masker
from cgn_augment.errors import ArgumentError, ArgumentTypeError, CheckpointError
from cgn_augment.functional import isolated_rng
from cgn_augment.masks import save_masker
from cgn_augment.masks.opening import open_masker
from cgn_augment.masks.photo_unet import PhotoMasker
from cgn_augment.masks.settings import MaskSettings

BACKBONES = (None, "resnet18")


def make_masker(backbone: str | None = None, size: int = 64) -> PhotoMasker:
    with isolated_rng(0, torch.device("cpu")):
        return PhotoMasker(2, backbone, size)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_image_gets_a_mask_to_which_every_resolution_adds(
    backbone: str | None, generator: torch.Generator
) -> None:
    masker = make_masker(backbone)
    images = torch.rand(3, 3, 64, 96, generator=generator) * 2 - 1
    masker(images).mean().backward()
    for name, parameter in masker.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    masker.eval()
    masks = masker(images)
    assert masks.shape == (3, 1, 64, 96)
    assert 0 < masks.min() < masks.max() < 1
    torch.testing.assert_close(masker(images[1:2]), masks[1:2])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_is_the_same_after_a_file(
    backbone: str | None, tmp_path: Path, generator: torch.Generator
) -> None:
    masker, path = make_masker(backbone).eval(), tmp_path / "mine.safetensors"
    save_masker(masker, path)
    again = load_masker(path)
    assert isinstance(again, PhotoMasker)
    assert (again.width, again.backbone, again.size) == (2, backbone, 64)
    assert not again.train().training
    images = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    torch.testing.assert_close(again(images), masker(images), atol=5e-3, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_copy_of_a_frozen_masker_is_frozen(
    backbone: str | None, generator: torch.Generator
) -> None:
    masker = make_masker(backbone).freeze()
    copied = copy.deepcopy(masker)
    assert not any(part.training for part in copied.modules())
    images = torch.rand(2, 3, 64, 64, generator=generator)
    assert torch.equal(copied(images), masker(images))
    assert copied.fingerprint == masker.fingerprint


def test_a_masker_is_opened_at_the_size_that_it_was_trained_for(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.safetensors")
    save_masker(make_masker(), path)
    assert open_masker(path).size == 64
    assert open_masker(path, MaskSettings(size=96))(torch.zeros(1, 3, 96, 96)).shape[2:] == (96, 96)
    with pytest.raises(ArgumentError, match=r"size of .* must be a multiple of 32, got 48"):
        open_masker(path, MaskSettings(size=48))


def test_the_backbone_takes_the_weights_of_torchvisions_network() -> None:
    with isolated_rng(1, torch.device("cpu")):
        theirs = resnet18(weights=None).eval()
    masker = make_masker("resnet18")
    masker.load_backbone(theirs.state_dict())
    masker.eval()
    images = torch.rand(1, 3, 64, 64)
    normalised = normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = masker.down(normalised)[-1]
    known = theirs.fc(found.mean(dim=(2, 3)))
    torch.testing.assert_close(known, theirs(normalised))
    with pytest.raises(RuntimeError, match="layer4"):
        masker.load_backbone({k: v for k, v in theirs.state_dict().items() if "layer4" not in k})
    with pytest.raises(ArgumentError, match="no backbone"):
        make_masker().load_backbone(theirs.state_dict())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    masker = make_masker()
    with pytest.raises(ArgumentError, match=r"multiples of 32, got \(1, 3, 64, 48\)"):
        masker(torch.zeros(1, 3, 64, 48))
    with pytest.raises(ArgumentError, match=r"multiples of 32, got \(64,\)"):
        masker(torch.zeros(64))
    with pytest.raises(ArgumentTypeError, match="floating point"):
        masker(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    for options in ({"size": 48}, {"size": 0}, {"width": 0}, {"backbone": "vgg16"}):
        with pytest.raises(ArgumentError):
            PhotoMasker(**options)
    path = tmp_path / "mine.safetensors"
    save_masker(masker, path)
    from safetensors.torch import save_file

    header = {"format": "cgn_augment_masker/1", "network": "other", "config": "{}"}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(CheckpointError, match="does not hold the masker that it describes"):
        load_masker(path)
