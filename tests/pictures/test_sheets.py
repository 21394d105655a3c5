"""Sheets, and the two commands that draw them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import run_command

from cgn_augment import BankSource, RealShapeSource
from cgn_augment.cli import program as cli
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.generators.sheet import draw_cgn
from cgn_augment.pictures.sheets import draw_sheet, save_figure
from cgn_augment.sources.real_shapes_sheet import draw_real_shapes
from train_generator.cli import program as train_cli


def shown(axes: object) -> np.ndarray:
    return np.asarray(axes.get_images()[0].get_array())  # type: ignore[attr-defined]


def test_a_sheet_shows_images_masks_names_and_captions() -> None:
    images = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0)])
    masks = torch.full((1, 1, 4, 4), 0.25)
    figure = draw_sheet({"real": images, "mask": masks}, {"real": ["class 3", "class 5"]}, "title")
    black, white, mask, nothing = figure.axes
    assert (shown(black) == 0).all()
    assert (shown(white) == 1).all()
    assert shown(mask).shape == (4, 4, 3)
    assert (shown(mask) == 0.25).all()
    assert not nothing.get_images()
    assert [axes.get_ylabel() for axes in figure.axes] == ["real", "", "mask", ""]
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["class 3", "class 5"]
    assert figure.get_suptitle() == "title"


@pytest.mark.parametrize(
    ("rows", "captions", "message"),
    [
        ({}, {}, "needs one row of images or more"),
        ({"a": torch.zeros(3, 8, 8)}, {}, r"row 'a' must be images .* got \(3, 8, 8\)"),
        ({"a": torch.zeros(0, 3, 8, 8)}, {}, "row 'a' must be images"),
        ({"a": torch.zeros(2, 3, 8, 8)}, {"a": ["one"]}, "captions of 'a' must be one for each"),
        ({"a": torch.zeros(2, 3, 8, 8)}, {"b": ["one"]}, "captions of 'b' must be one for each"),
    ],
)
def test_a_sheet_of_something_else_is_an_error(
    rows: dict[str, torch.Tensor], captions: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        draw_sheet(rows, captions)


def test_the_sheet_of_a_cgn_follows_its_seed_and_composes_its_rows(tiny_cgn: SmallCGN) -> None:
    first, again, other = (
        [shown(axes) for axes in draw_cgn(tiny_cgn, 3, seed=seed).axes] for seed in (0, 0, 1)
    )
    assert len(first) == 12
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    mask, foreground, background, counterfactual = (
        np.stack(first[i : i + 3]) for i in (0, 3, 6, 9)
    )
    composed = mask * foreground + (1 - mask) * background
    np.testing.assert_allclose(counterfactual, composed, atol=1e-5)


def test_the_sheet_of_a_cgn_shows_real_images_first(tiny_cgn: SmallCGN) -> None:
    figure = draw_cgn(tiny_cgn, 2, real=(torch.zeros(2, 3, 32, 32), torch.tensor([4, 9])))
    assert figure.axes[0].get_ylabel() == "real image"
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["class 4", "class 9"]
    with pytest.raises(ArgumentError, match="num must be 1 or more, got 0"):
        draw_cgn(tiny_cgn, 0)


def test_real_images_are_drawn_above_their_masks_and_counterfactuals(tiny_cgn: SmallCGN) -> None:
    images = torch.full((3, 3, 32, 32), -1.0)
    for place in (0, 1):
        images[place, :, 4 * place : 4 * place + 12, 8:24] = 1.0
    bank = BankSource(tiny_cgn, size=20)
    source = RealShapeSource(lambda part: (part[:, :1] > 0).float(), bank, cache_masks=True)
    figure = draw_real_shapes(source, images, torch.tensor([7, 8, 9]), num=2)
    names = [axes.get_ylabel() for axes in figure.axes[::3]]
    assert names == ["real image", "its mask", "counterfactual 1", "counterfactual 2"]
    assert [axes.get_xlabel() for axes in figure.axes[3:6]] == ["usable", "usable", "empty"]
    for column in (0, 1):
        mask = shown(figure.axes[3 + column])[:, :, 0] > 0.5
        assert np.array_equal(mask, images[column, 0].numpy() > 0)
        first, second = (shown(figure.axes[row + column]) for row in (6, 9))
        assert not np.array_equal(first, second)
    with pytest.raises(ArgumentError, match="num must be 1 or more, got 0"):
        draw_real_shapes(source, images, torch.arange(3), num=0)
    assert source.counts["usable"] == 0  # a picture counts nothing


def test_a_figure_is_written_whole_or_not_at_all(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    figure = draw_cgn(tiny_cgn, 2)
    path = save_figure(figure, tmp_path / "sheet.png")
    pixels = matplotlib.image.imread(path)
    assert pixels.std() > 0.1  # not blank
    with pytest.raises(ArgumentError, match=r"saved as one of \.png.* got 'sheet\.gif'"):
        save_figure(figure, tmp_path / "sheet.gif")
    with pytest.raises(ArgumentError, match="missing is missing: make it first"):
        save_figure(figure, tmp_path / "missing" / "sheet.png")
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_cgn_augment_tells_and_draws_what_a_checkpoint_holds(
    tiny_cgn: SmallCGN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, picture = tmp_path / "tiny.safetensors", tmp_path / "sheet.png"
    save_cgn(tiny_cgn, checkpoint, recipe="untrained")
    assert run_command(cli.main, monkeypatch, "info", checkpoint) == 0
    printed = capsys.readouterr().out
    assert tiny_cgn.fingerprint in printed
    assert "untrained" in printed
    assert run_command(cli.main, monkeypatch, "sheet", checkpoint, picture, "--num=2") == 0
    assert matplotlib.image.imread(picture).std() > 0.1


def test_train_generator_draws_data_and_textures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (["data", "colored"], ["textures"]):
        picture = tmp_path / f"{arguments[0]}.png"
        assert run_command(train_cli.main, monkeypatch, *arguments, picture) == 0
        assert matplotlib.image.imread(picture).std() > 0.1


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (cli.main, ["info", "nothing.pth"], "'nothing.pth' is neither a file nor"),
        (cli.main, ["sheet", "{checkpoint}", "{folder}/sheet.gif"], "saved as one of"),
        (cli.main, ["sheet", "{checkpoint}", "{folder}/no/sheet.png"], "make it first"),
        (cli.main, ["sheet", "{checkpoint}", "{folder}/sheet.png", "--num=0"], "num must be 1"),
        (
            cli.main,
            ["sheet", "{checkpoint}", "{folder}/sheet.png", "--device=gpu"],
            "not the name of a device",
        ),
        (train_cli.main, ["textures", "{folder}/t.png", "--folder=no"], "object is missing"),
        (
            train_cli.main,
            ["data", "colored", "{folder}/d.png", "--textures=no"],
            "object is missing",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    main: Callable[[], None],
    arguments: list[str],
    message: str,
    tiny_cgn: SmallCGN,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint, folder = tmp_path / "tiny.safetensors", tmp_path / "out"
    folder.mkdir()
    save_cgn(tiny_cgn, checkpoint)
    filled = [text.format(checkpoint=checkpoint, folder=folder) for text in arguments]
    assert run_command(main, monkeypatch, *filled) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "subcommand"),
        (["paint"], "'paint' (choose from"),
        (["data"], "the following arguments are required"),
        (["data", "purple", "sheet.png"], "Expected a Literal['colored', "),
        (["data", "colored", "sheet.png", "--size=3"], "unrecognized arguments: --size=3"),
        (["small", "--factors.num_steps=many"], '"factors.num_steps"'),
    ],
)
def test_a_wrong_command_line_is_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(train_cli.main, monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("train-generator: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert "--help" in printed.err


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["classifier", "--train", "images"], "classifier TRAIN VALIDATION"),
        (["downstream", "--out=runs/x"], "downstream OUT"),
    ],
)
def test_a_required_argument_given_as_an_option_is_told_its_place(
    arguments: list[str],
    call: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(train_cli.main, monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.endswith(f"; write train-generator {call}\n")


def test_a_folder_that_cannot_be_made_is_named_without_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(cli.main, monkeypatch, "sample", "colored-mnist", "/proc/images") == 2
    assert capsys.readouterr().err == (
        "cgn-augment: error: /proc/images: No such file or directory\n"
    )
