"""`train-generator masker` and `masker drawn`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny_cgn, run_command
from PIL import Image
from small_helpers import write_folders

from cgn_augment.cli import program as plugin
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import save_cgn
from train_generator.cli import maskers
from train_generator.cli import program as cli
from train_generator.small.config import MaskerConfig


def test_a_masker_learns_from_drawn_masks_and_masks_the_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path)
    images, masks, run = (tmp_path / name for name in ("images", "masks", "run"))
    drawn = sorted(masks.rglob("*.png"))
    for path in drawn[::2]:
        path.unlink()
    small = ("--num-steps", 2, "--batch-size", 2, "--size", 32, "--width", 2, "--device", "cpu")
    given = ("masker", "--images", images, "--masks", masks, "--out", run, *small)
    assert run_command(cli.main, monkeypatch, *given, "--holdout", 0.25) == 0
    said = capsys.readouterr().out
    assert f"{len(drawn) // 2 - 3} images with masks to learn from, 3 held out" in said
    assert "on 3 images that were held out: " in said
    file = run / "masker.safetensors"
    assert f"cgn-augment masks {images} OUT --masker {file}" in said
    found = tmp_path / "found"
    assert run_command(plugin.main, monkeypatch, "masks", images, found, "--masker", file) == 0
    for path in images.rglob("*.*"):
        with (
            Image.open(path) as image,
            Image.open((found / path.relative_to(images)).with_suffix(".png")) as mask,
        ):
            assert mask.size == image.size
    assert run_command(cli.main, monkeypatch, *given, "--resume", "--seed", 1) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --images FOLDER and --masks FOLDER, with the masks that you drew"),
        (("--images", "a"), "'train-generator masker drawn --cgn FILE' learns from a generator"),
        (("--images", "a", "--masks", "b"), "there is no folder b of masks"),
        (("--images", "a", "--masks", "b", "--size", "100"), "multiple of 32, got 100"),
        (("drawn", "--cgn", "nobody"), "'nobody' is neither a file nor the name"),
        (("drawn", "--training.num_steps", "0"), "num_steps must be 1 or more to train a masker"),
        (("drawn", "--textures", "nowhere"), "--textures are those of --variant wildlife"),
    ],
)
def test_what_does_not_fit_is_one_line(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(cli.main, monkeypatch, "masker", *words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:no (fore|back)ground of the classes:UserWarning")
def test_a_masker_learns_from_own_images_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path)
    cgn = tmp_path / "cgn.safetensors"
    save_cgn(make_tiny_cgn(num_classes=3), cgn)
    config = MaskerConfig(num_steps=2, rounds=1, batch_size=4, num_factors=20, num_textures=2)
    options: dict[str, Any] = {"images": str(tmp_path / "images"), "training": config}
    maskers.drawn(str(cgn), str(tmp_path / "out"), masks=str(tmp_path / "masks"), **options)
    card = (tmp_path / "out/masker.md").read_text()
    assert (
        f"masks found in the images in {tmp_path / 'images'}: intersection over union with 24 true"
        in card
    )
    assert card in capsys.readouterr().out
    with pytest.raises(ArgumentError, match="give --images FOLDER too"):
        maskers.drawn(str(cgn), str(tmp_path / "other"), masks=str(tmp_path / "masks"))
