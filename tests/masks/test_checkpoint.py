"""Files that are no masker: one error each, before memory is taken for what they claim."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cgn_augment import load_masker
from cgn_augment.errors import CheckpointError
from cgn_augment.masks import UNetMasker, save_masker
from cgn_augment.masks.checkpoint import FORMAT
from cgn_augment.masks.photo_unet import PhotoMasker


def write(path: Path, config: str, **tensors: torch.Tensor) -> Path:
    save_file(tensors or {"a": torch.zeros(1)}, path, {"format": FORMAT, "config": config})
    return path


def test_a_masker_that_is_read_finds_what_the_saved_one_finds(tmp_path: Path) -> None:
    masker = UNetMasker(width=4)
    save_masker(masker, tmp_path / "masker.safetensors")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = masker.half().float().freeze()(images)
    torch.testing.assert_close(load_masker(tmp_path / "masker.safetensors")(images), expected)


@pytest.mark.parametrize("width", [3000, 10**5, 10**9, 10**19])
def test_a_width_that_the_weights_do_not_have_takes_no_memory(width: int, tmp_path: Path) -> None:
    path = write(tmp_path / "wide.safetensors", json.dumps({"width": width}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="does not hold the masker that it describes") as told:
        load_masker(path)
    assert len(str(told.value).splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("config", ["", "{", "[4]", "null", '{"width": "4"}', "[" * 100_000])
def test_settings_that_are_none_are_one_error(config: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not hold the masker") as told:
        load_masker(write(tmp_path / "odd.safetensors", config))
    assert len(str(told.value).splitlines()) == 1


def test_images_larger_than_any_masker_takes_are_refused(tmp_path: Path) -> None:
    masker = PhotoMasker(width=1)
    masker.size = 2**15
    save_masker(masker, tmp_path / "large.safetensors")
    with pytest.raises(CheckpointError, match="claims images of 32768 pixels a side"):
        load_masker(tmp_path / "large.safetensors")
