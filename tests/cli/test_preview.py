"""`cgn-augment preview`: a look at what a loop would see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_command
from PIL import Image

from cgn_augment import BankSource, CounterfactualDataset, FreshSource, Interventions
from cgn_augment.cli import preview as command
from cgn_augment.cli import program as cli
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.stream.preview import save_preview


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine images of three classes, larger than the generator's."""
    for number, name in enumerate(("bird", "cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for shade in range(3):
            image = Image.new("RGB", (60, 48), (80 * number, 80 * shade, 250))
            image.paste((0, 0, 0), (0, 0, 30, 48))
            image.save(tmp_path / "photos" / name / f"{shade}.png")
    return tmp_path / "photos"


@pytest.fixture
def run(
    photos: Path, tmp_path: Path, tiny_cgn: SmallCGN, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Runs the command on the photos, with a batch of eight."""
    path = tmp_path / "cgn.safetensors"
    save_cgn(tiny_cgn, path)
    fixed = ["preview", photos, "--cgn", path, "--batch-size=8", "--num=1"]
    out = tmp_path / "look.png"
    return lambda *arguments: run_command(cli.main, monkeypatch, *fixed, "--out", out, *arguments)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[CounterfactualDataset]:
    """The streams that were looked at."""
    streams: list[CounterfactualDataset] = []

    def note(stream: CounterfactualDataset, *rest: Any) -> Any:
        streams.append(stream)
        return save_preview(stream, *rest)

    monkeypatch.setattr(command, "save_preview", note)
    return streams


def test_the_command_writes_a_picture_and_says_in_a_line_what_is_in_it(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--ratio=0.5", "--mix=separate") == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'look.png'}: epoch 0, step 0: 8 real and 4 counterfactual images of 32x32 "
        "(separate, label: shape)\n"
    )
    with Image.open(tmp_path / "look.png") as picture:
        assert picture.size[0] > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cgn.safetensors",
        "look.png",
        "photos",
    ]


def test_a_folder_of_fewer_images_than_a_batch_is_shown_whole(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--batch-size=64") == 0
    assert "9 real and 9 counterfactual images" in capsys.readouterr().out


@pytest.mark.parametrize("bank", ["0", "20"])
def test_backgrounds_may_be_of_other_classes(
    bank: str, run: Callable[..., int], seen: list[CounterfactualDataset]
) -> None:
    assert run("--background=other", f"--bank={bank}") == 0
    assert seen[0].source.interventions == Interventions(background="other")  # type: ignore[attr-defined]


def test_settings_reach_the_stream(
    run: Callable[..., int], seen: list[CounterfactualDataset]
) -> None:
    options = ["--image-size=48", "--mean=imagenet", "--augment=false", "--label=texture"]
    mapped = "--class-map={bird: [0, 1], cat: 3, 2: 5}"
    assert run(*options, mapped, "--fraction=0.25", "--mix=replace", "--bank=20", "--seed=4") == 0
    (stream,) = seen
    assert repr(stream.class_map) == "ClassMap({0: (0, 1), 1: (3,), 2: (5,)})"
    assert isinstance(stream.source, BankSource)
    assert (stream.source.size, stream.seed, stream.label, stream.mix) == (
        20,
        4,
        "texture",
        "replace",
    )
    images, _ = next(iter(stream))
    assert images.shape == (8, 3, 48, 48)
    again, _ = stream.dataset[0]
    assert torch.equal(again, stream.dataset[0][0])
    # Half of a bird is black, and it shows in the middle of 60 x 48 pixels.
    assert torch.allclose(
        again[:, 0, 0], -torch.tensor([0.485 / 0.229, 0.456 / 0.224, 0.406 / 0.225])
    )
    assert run("--mean", "[0.1, 0.2, 0.3]", "--std=0.5", "--augment=true", "--count=2") == 0
    assert isinstance(seen[1].source, FreshSource)
    assert seen[1].proportion.count == 2
    low, high = seen[1]._maker.value_range or (0, 0)
    assert (low, high) == pytest.approx((-0.6, 1.8))


def test_classes_are_called_as_they_are_written(
    run: Callable[..., int], photos: Path, seen: list[CounterfactualDataset]
) -> None:
    """Even where YAML 1.1 takes a name for a number in octal, or for false."""
    for old, new in (("bird", "010"), ("cat", "2"), ("dog", "no")):
        (photos / old).rename(photos / new)
    assert run("--class-map={010: [0, 1], 2: 3, no: 5}") == 0
    assert repr(seen[0].class_map) == "ClassMap({0: (0, 1), 1: (3,), 2: (5,)})"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class-map={bard: 1}"], "'bard' is none of the classes of the images: bird, cat, dog"),
        (["--class-map={bird: 10}"], "there are the classes 0 to 9, not 10"),
        (["--mean=[0.1, 0.2]"], "mean must be one number or three"),
        (["--out=no/look.png"], "the folder no is missing"),
        (["--ratio=1", "--count=2"], "give one of ratio, count and fraction"),
        (["--num=0"], "num must be 1 or more"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str], message: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_the_generator_must_be_said(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(cli.main, monkeypatch, "preview", photos) == 2
    assert "say which generator: --cgn PATH" in capsys.readouterr().err
