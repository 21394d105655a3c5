"""The commands that draw what is there, and what all command lines say of bad input."""

from __future__ import annotations

import io
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import run_command
from PIL import Image

from cgn_augment.cli import program as cli
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.masks.settings import MaskSettings
from train_generator.cli import program as train_cli

NO_MASKING = MaskSettings()


@pytest.fixture(scope="module")
def checkpoint(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cgn") / "tiny.safetensors"
    save_cgn(tiny_cgn, path, recipe="untrained")
    return path


def test_cgn_augment_tells_and_draws_what_a_checkpoint_holds(
    tiny_cgn: SmallCGN,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "sheet.png"
    assert run_command(cli.main, monkeypatch, "info", checkpoint) == 0
    printed = capsys.readouterr().out
    assert tiny_cgn.fingerprint in printed
    assert "untrained" in printed
    assert run_command(cli.main, monkeypatch, "sheet", checkpoint, picture, "--num=2") == 0
    assert matplotlib.image.imread(picture).std() > 0.1


@pytest.mark.parametrize(
    "arguments", [["data", "colored"], pytest.param(["textures"], marks=pytest.mark.slow)]
)
def test_train_generator_draws_data_and_textures(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "sheet.png"
    assert run_command(train_cli.main, monkeypatch, *arguments, picture) == 0
    assert matplotlib.image.imread(picture).std() > 0.1


def test_a_reader_that_has_seen_enough_ends_a_command_quietly() -> None:
    command = f"{sys.executable} -m cgn_augment.cli info colored-mnist"
    for reader in ("head -n 1", "true"):
        piped = f"set -o pipefail; {command} | {reader}"
        done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 141)
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (
            cli.main,  # a folder that cannot be made is named without a number
            ["sample", "colored-mnist", "/proc/images"],
            "cgn-augment: error: /proc/images: No such file or directory\n",
        ),
        (
            cli.main,  # and a file is, not the temporary one beside it
            ["sheet", "{checkpoint}", "/proc/sheet.png"],
            "cgn-augment: error: /proc/sheet.png: No such file or directory\n",
        ),
        (cli.main, ["info", "nothing.pth"], "'nothing.pth' is neither a file nor"),
        (cli.main, ["sheet", "{checkpoint}", "{folder}/a\n\x1b[2J/a.png"], "a\\n\\x1b[2J"),
        (cli.main, ["sheet", "{checkpoint}", "{folder}/sheet.gif"], "saved as one of"),
        (cli.main, ["sheet", "{checkpoint}", "{folder}/no/sheet.png"], "make it first"),
        (cli.main, ["sheet", "{checkpoint}", "{folder}/sheet.png", "--num=0"], "num must be 1"),
        (
            cli.main,
            ["sheet", "{checkpoint}", "{folder}/sheet.png", "--device=gpu"],
            "not the name of a device",
        ),
        (
            train_cli.main,
            ["textures", "{folder}/t.png", "--folder=no"],
            "there is no folder no/object",
        ),
        (
            train_cli.main,
            ["data", "colored", "{folder}/d.png", "--textures=no"],
            "there is no folder no/object",
        ),
        # What is wrong with a place or a number is known before anything is read or trained.
        (cli.main, ["sheet", "no.pth", "{folder}/sheet.gif"], "saved as one of"),
        (
            cli.main,
            ["interpolate", "no", "{folder}/a.png", "[1, 2]", "--save=[]"],
            "save must name",
        ),
        (train_cli.main, ["textures", "{folder}/t.gif", "--folder=no"], "saved as one of"),
        (train_cli.main, ["data", "wildlife", "{folder}/no/t.png", "--textures=no"], "make it"),
        (
            train_cli.main,
            ["measure", "wildlife", "wildlife-mnist", "--num=10", "--cache={folder}"],
            "num must be 60 to 8000, got 10",
        ),
        (train_cli.main, ["downstream", "{folder}/a", "--variants=[]"], "variants is empty: name"),
        (train_cli.main, ["downstream", "{folder}/a", "--rows=[]"], "rows is empty: name one"),
        (train_cli.main, ["downstream", "{folder}/a", "--seeds=[]"], "seeds is empty: name one"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    main: Callable[[], None],
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
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
        # A required argument that is given as an option is told its place.
        (["classifier", "--train", "images"], "; write train-generator classifier TRAIN\n"),
        (["downstream", "--out=runs/x"], "; write train-generator downstream OUT"),
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
    assert "--help" in printed.err or "; write " in printed.err


@pytest.mark.parametrize("package", ["cgn_augment", "train_generator"])
def test_a_package_is_its_program_for_launchers_of_modules(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, f"{package}.cli.__main__", raising=False)

    def run() -> None:
        runpy.run_module(f"{package}.cli", run_name="__main__")

    assert run_command(run, monkeypatch, "--help") == 0
    assert f"usage: {package.replace('_', '-')}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["masks", "a", "b", "--size=x"], '"size": Expected: whole number. Got value: x;'),
        (["preview", "a", "--ratio=x"], '"ratio": Expected: number. Got value: x;'),
        (
            ["shards", "--cgn=a", "--out=b", "--num=1", "--shape=0"],
            "\"shape\": Expected: list[int], such as '[0, 1]'. Got value: 0;",
        ),
        (["preview", "a", "--class-map=x"], "list[int | str]]. Got value: x;"),
        (["sample", "a", "b", "--num=x"], '"num": Expected a whole number. Got value: x;'),
        (
            ["masks", "a", "b", "--mean=[1]"],
            "Expected: tuple[float, float, float]. Got value: ['1']",
        ),
        (
            ["sample", "a", "b", "--save=nose"],
            "Expected: list[Literal['mask', 'foreground', 'background', 'composite']], "
            "Literal['mask', 'foreground', 'background', 'composite']. Got value: nose;",
        ),
    ],
)
def test_a_value_of_another_kind_is_told_in_words_of_a_command_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(cli.main, monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "<class" not in error
    assert "NoneType" not in error
    assert error.count("\n") == 1


def no_memory_of_torch() -> None:
    """Asks for more than any machine has."""
    torch.empty(2**54, dtype=torch.uint8)


def no_memory_of_numpy() -> None:
    """Asks for more than any machine has."""
    np.ones(2**54, dtype=np.uint8)


def no_size_of_torch() -> None:
    """Asks for more than torch can count."""
    torch.empty(10**18, 3, 32, 32)


def no_memory_of_a_gpu() -> None:
    """Says what CUDA says."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


def no_number_of_pillow() -> None:
    """Asks for an image that Pillow cannot count."""
    Image.new("RGB", (2, 2)).resize((10**18, 2))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (no_memory_of_torch, "there is not enough memory"),
        (no_memory_of_numpy, "there is not enough memory"),
        (no_size_of_torch, "there is not enough memory"),
        (no_memory_of_a_gpu, "there is not enough memory"),
        (no_number_of_pillow, "a number is too large for this machine: "),
    ],
)
def test_what_a_machine_cannot_hold_is_one_line(
    ask: Callable[[], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run_commands("name", {"ask": ask}, ["ask"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"name: error: {said}")
    assert error.count("\n") == 1


def test_names_that_are_no_text_of_the_terminal_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tell() -> None:
        """Prints the name of a folder."""
        print("the class c\udcff has no image")

    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="utf-8"))
    cli.run_commands("name", {"tell": tell}, ["tell"])
    assert out.getvalue() == b"the class c\\udcff has no image\n"


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def fail() -> None:
        """Fails."""
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        cli.run_commands("name", {"fail": fail}, ["fail"])


@pytest.mark.parametrize("seed", [-1, 2**64])
@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (cli.main, ["sheet", "{checkpoint}", "s.png"]),
        (cli.main, ["sample", "{checkpoint}", "images"]),
        (cli.main, ["interpolate", "{checkpoint}", "i.png", "[1, 2]"]),
        (cli.main, ["shards", "--cgn={checkpoint}", "--out=set", "--num=10"]),
        (train_cli.main, ["masker", "drawn", "--cgn={checkpoint}", "--out=run"]),
        (train_cli.main, ["judge", "judge.safetensors"]),
        (train_cli.main, ["data", "colored", "data.png"]),
        (train_cli.main, ["textures", "textures.png"]),
    ],
)
def test_a_seed_that_cannot_be_is_one_message(
    main: Callable[[], None],
    arguments: list[str],
    seed: int,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [text.format(checkpoint=checkpoint) for text in arguments]
    assert run_command(main, monkeypatch, *filled, f"--seed={seed}") == 2
    wanted = f"must be 0 or more, got {seed}" if seed < 0 else f"must be below 2**64, got {seed}"
    assert capsys.readouterr().err.endswith(f"error: seed {wanted}\n")


def test_a_shortened_option_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(cli.main, monkeypatch, "parts", "photos", "out", "--excl=keys.txt") == 2
    error = capsys.readouterr().err
    assert error.startswith("cgn-augment: error: unrecognized arguments: --excl=keys.txt")
    assert error.count("\n") == 1


OF_PHOTOS = ["photos", "--validation=photos", "--pretrained=false", "--training.batch_norm=train"]
OF_CLASSIFIER = ["classifier", *OF_PHOTOS, "--out=run", "--cgn={checkpoint}"]


@pytest.mark.parametrize("number", [10**7, 10**18])
@pytest.mark.parametrize(
    ("main", "arguments", "most"),
    [
        (cli.main, ["masks", "photos", "masks", "--masker=grabcut", "--size"], 2**15),
        (cli.main, ["parts", "photos", "parts", "--masker=grabcut", "--size"], 2**15),
        (cli.main, ["parts", "photos", "parts", "--masks=masks", "--num_workers"], 1024),
        (cli.main, ["parts", "photos", "parts", "--masks=masks", "--classes"], 10**6),
        (cli.main, ["preview", "photos", "--cgn={checkpoint}", "--image_size"], 2**15),
        (cli.main, ["preview", "photos", "--cgn={checkpoint}", "--classes"], 10**6),
        (cli.main, ["interpolate", "{checkpoint}", "way.png", "[0, 1]", "--steps"], 10**4),
        (
            cli.main,
            ["shards", "--cgn={checkpoint}", "--out=set", "--num=20", "--block_size"],
            2**16,
        ),
        (train_cli.main, [*OF_CLASSIFIER, "--images.image_size"], 2**15),
        (train_cli.main, [*OF_CLASSIFIER, "--training.num_epochs"], 10**5),
        (train_cli.main, [*OF_CLASSIFIER, "--num_workers"], 1024),
        (train_cli.main, [*OF_CLASSIFIER, "--classes"], 10**6),
        (
            train_cli.main,
            ["masker", "--images=photos", "--masks=photos", "--out=run", "--size"],
            2**15,
        ),
        (
            train_cli.main,
            ["downstream", "run", "--rows=[decorrelated]", "--training.num_epochs"],
            10**5,
        ),
        (
            train_cli.main,
            ["downstream", "run", "--rows=[decorrelated]", "--training.num_train"],
            50_000,
        ),
        (
            train_cli.main,
            ["downstream", "run", "--rows=[decorrelated]", "--training.num_test"],
            10_000,
        ),
    ],
)
def test_an_absurd_size_is_refused_at_once(
    main: Callable[[], None],
    arguments: list[str],
    most: int,
    number: int,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / name / "1.png")
    *given, option = (text.format(checkpoint=checkpoint) for text in arguments)
    assert run_command(main, monkeypatch, *given, f"{option}={number}") == 2
    error = capsys.readouterr().err
    assert error.endswith(
        f"{option.rpartition('.')[2].lstrip('-')} must be {most} or less, got {number}\n"
    )
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("command", [("parts", "info"), ("shards", "verify")])
@pytest.mark.parametrize("protocol", ["http", "s3"])
def test_where_nothing_listens_is_said_at_once(
    command: tuple[str, str],
    protocol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
        url = f"http://{place}/set" if protocol == "http" else "s3://bucket-of-nobody/set"
        if protocol == "s3":
            pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{place}")
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.chdir(tmp_path)
        start = time.monotonic()
        assert run_command(cli.main, monkeypatch, *command, url) == 2
    assert time.monotonic() - start < 60  # of the 120 that a server may fail for
    error = capsys.readouterr().err
    assert "nothing answers there (" in error
    assert error.count("\n") == 1


def switched(folder: str, *, large: bool = False, masking: MaskSettings = NO_MASKING) -> None:
    """Prints what it got.

    Args:
        folder: a place.
        large: a switch.
        masking: settings with switches.
    """
    print(folder, large, masking.largest, masking.close)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["here", "--large"], "here True False False"),
        (["--large", "here"], "here True False False"),
        (["here", "--large", "false"], "here False False False"),
        (["here", "--large=TRUE"], "here True False False"),
        (["here", "--masking.largest", "--masking.close", "true"], "here False True True"),
    ],
)
def test_a_switch_may_stand_alone(
    arguments: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run_commands("name", {"do": switched}, ["do", *arguments])
    assert capsys.readouterr().out == f"{printed}\n"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["masks", "photos"], "; write cgn-augment masks IMAGES OUT\n"),
        (["parts", "photos", "out", "masks"], "; write cgn-augment parts IMAGES OUT\n"),
        (["parts", "photos", "out", "--mask=m"], "; did you mean --masks? --help lists"),
        (["preview", "photos", "--image-sise=9"], "; did you mean --image-size? --help lists"),
        (["shards", "--out=set"], "; write cgn-augment shards --num NUM --cgn CGN --out OUT\n"),
        (["shards", "parts", "set"], "; write cgn-augment shards --num NUM --cgn CGN --out OUT\n"),
        (["masks", "photos", "out", "--largest", "maybe"], "; write cgn-augment masks IMAGES OUT"),
    ],
)
def test_a_wrong_command_line_is_told_the_right_one(
    arguments: list[str],
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(cli.main, monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert advice in error
    assert error.count("\n") == 1


def test_help_says_what_each_command_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run_command(cli.main, monkeypatch, "--help") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    told = {words[0]: words[1:] for words in lines if words}
    assert "apart;" in told["parts"]
    assert "counterfactuals" in told["shards"]
