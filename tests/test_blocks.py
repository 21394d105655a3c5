"""Every block of code of the documents is run, or listed with what it needs that is not here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import webdataset
from conftest import REPO, load_tool, make_tiny_cgn, run_command
from layout_helpers import make_waterbirds, write_rows
from mask_helpers import find_dark
from part_helpers import CLASSES, make_photos, write
from robustness_helpers import save_tiny_ensemble
from shard_helpers import members, render
from test_site import command_names
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import cgn_augment.cli.program as cli
import train_generator.cli.program as train_cli
from cgn_augment import BankSource, CounterfactualDataset, match_real
from cgn_augment.masks import save_masker
from cgn_augment.masks.photo_unet import PhotoMasker
from cgn_augment.parts.set import PartSet
from cgn_augment.shards import ShardConfig
from train_generator.classifier import MNISTClassifier
from train_generator.mnist import make_variant

docs_site = load_tool("docs_site")

NAMES = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = {
    path.relative_to(REPO).as_posix(): path.read_text()
    for path in [*map(REPO.joinpath, NAMES), *sorted(REPO.glob("docs/**/*.md"))]
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
BLOCKS = [
    (page, language, body) for page, text in PAGES.items() for language, body in FENCE.findall(text)
]

INSTALLS = "installs packages, as .ci/run and .ci/slow do"
TESTS = "runs the tests themselves"
HOURS = "trains for minutes to hours; the tests of the command run it small"
DATA = "needs a published data set"
WEIGHTS = "needs published or pretrained weights"
BUCKET = "needs an object store"
CLUSTER = "starts several processes; the tests of ranks and launchers do so"
SERVER = "starts a server that does not end"

LISTED = {
    "python -m pip install . && python examples/invariant_mnist.py": INSTALLS,
    "python -m pip install '.[test]' && pytest -n 2 --dist loadfile": INSTALLS,
    "python3.11 -m venv .venv && . .venv/bin/activate": INSTALLS,
    "python -m pip install -e '.[test]'": INSTALLS,
    "python -m pip install .": INSTALLS,
    "python -m pip install '.[fill]'": INSTALLS,
    "python -m pip install '.[docs]'": INSTALLS,
    "python -m pip install '.[ray]'": INSTALLS,
    "ray start --head": CLUSTER,
    "cgn-augment shards --cgn CGN --num 1_000_000 --out /shared/set --engine ray": CLUSTER,
    "mkdocs serve": SERVER,
    "pytest tests/fuzz --fuzz 1000": TESTS,
    "tensorboard --logdir runs/ensemble": SERVER,
    "tensorboard --logdir runs/wildlife": SERVER,
    "train-generator classifier data/train data/val --cgn cgn.pth": WEIGHTS,
    "train-generator classifier data/train data/val --cgn double-colored-mnist": HOURS,
    "train-generator classifier data/train data/val --parts": WEIGHTS,
    "train-generator classifier photos validation --parts": WEIGHTS,
    "train-generator classifier waterbirds:data/waterbirds": DATA,
    "torchrun --nproc-per-node 4 $(which train-generator)": CLUSTER,
    "torchrun --nproc-per-node 2 --no-python -- cgn-augment parts": CLUSTER,
    "torchrun --nproc-per-node 8 --no-python -- cgn-augment shards": CLUSTER,
    "cgn-augment shards … --rank $SLURM_ARRAY_TASK_ID": CLUSTER,
    "accelerate launch --num_processes 4 -m train_generator.cli imagenet": CLUSTER,
    "train-generator evaluate ensemble.safetensors": DATA,
    "train-generator evaluate '[resnet50.IMAGENET1K_V1": DATA,
    "train-generator evaluate resnet50=runs/birds/classifier.pt": DATA,
    "train-generator small --": HOURS,
    "train-generator measure wildlife": HOURS,
    "train-generator masker drawn --cgn double-colored-mnist": HOURS,
    "train-generator masker --images photos": HOURS,
    "train-generator fetch-weights weights": WEIGHTS,
    "train-generator imagenet": WEIGHTS,
    "cgn-augment parts waterbirds:data/waterbirds": DATA,
    "cgn-augment sample cgn.pth": WEIGHTS,
    "cgn-augment interpolate cgn.pth": WEIGHTS,
    "cgn-augment masks photos masks --masker u2net.onnx": WEIGHTS,
    "cgn-augment plan": "tests/benchmarks/test_performance_page.py holds what it prints",
}
"""Commands that are not run, by how they begin, and why."""

MADE = {
    "cgn-augment masks": "masks",
    "cgn-augment parts photos parts": "parts",
    "cgn-augment parts 'photos.csv": "parts",
    "cgn-augment shards --cgn": "shards",
}
"""What a command makes anew: it is not there before."""

SMALLER = {"1_000_000": "70", "size=2000": "size=20", "num=1000": "num=20", "224": "32"}
QUICK = {"cgn-augment parts photos": " --num-workers 0", "cgn-augment parts 'p": " --num-workers 0"}


def lines_of(body: str) -> list[str]:
    """The commands of a block; a loop of the shell is one for each value."""
    body = body.replace("\\\n", " ")
    if loop := re.fullmatch(r"for (\w+) in (.*); do\n(.*)\ndone\n", body, flags=re.DOTALL):
        name, values, inside = loop.groups()
        body = "\n".join(inside.replace(f"${name}", value) for value in values.split())
    return [" ".join(line.split()) for line in body.splitlines() if line.strip()]


SHELL = [(page, lines_of(body)) for page, language, body in BLOCKS if language == "sh"]
LINES = [line for _, lines in SHELL for line in lines]


def why_not(line: str) -> str | None:
    """Why a command is not run, or None."""
    return next((why for start, why in LISTED.items() if line.startswith(start)), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands of the documents find in theirs."""
    folder = make_photos(tmp_path_factory.mktemp("place"))
    write(folder, folder / "parts")
    render(make_tiny_cgn().freeze(), folder / "shards", ShardConfig(num=24, shard_size=12))
    (folder / "runs" / "masker").mkdir(parents=True)
    save_masker(PhotoMasker(width=2).eval(), folder / "runs" / "masker" / "masker.safetensors")
    rows = [["file", "species", "seg"]]
    for path in sorted((folder / "photos").rglob("*.png")):
        name = path.relative_to(folder / "photos").as_posix()
        rows.append([f"photos/{name}", path.parent.name, f"masks/{name}"])
    write_rows(folder / "photos.csv", rows)
    (folder / "exclude.txt").write_text("cat/000\n")
    make_waterbirds(folder / "birds")
    return folder


@pytest.fixture
def workspace(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in which a test runs."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@cache
def help_of(line: str) -> str:
    """What the command of a line prints for `--help`."""
    words = shlex.split(line)
    names = [name for name in command_names() if words[: len(name.split())] == name.split()]
    return str(docs_site.print_help(max(names, key=len)))


@pytest.mark.parametrize(
    ("page", "lines"),
    [(page, lines) for page, lines in SHELL if not all(map(why_not, lines))],
    ids=lambda value: value if isinstance(value, str) else value[0][:40],
)
def test_commands_run(
    page: str, lines: list[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in (line for line in lines if not why_not(line)):
        for start, made in MADE.items():
            if line.startswith(start):
                shutil.rmtree(workspace / made, ignore_errors=True)
        for start, more in QUICK.items():
            line += more if line.startswith(start) else ""
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        name, *words = shlex.split(line)
        main = {"cgn-augment": cli.main, "train-generator": train_cli.main}[name]
        assert run_command(main, monkeypatch, *words) == 0, line


@pytest.mark.parametrize("start", LISTED)
def test_what_is_listed_is_there(start: str) -> None:
    assert any(line.startswith(start) for line in LINES)


OURS = [line for line in LINES if re.match(r"(cgn-augment|train-generator) ", line)]


@pytest.mark.parametrize("line", OURS, ids=lambda line: line[:60])
def test_options_are_those_of_the_command(line: str) -> None:
    told = help_of(line.partition(" --")[0])
    for word in shlex.split(line):
        if word.startswith("--") and word not in ("--preset", "--"):
            option = word.partition("=")[0].replace("_", "-")
            assert re.search(rf"{option}(?![\w-])", told), option


def digits(_: Path) -> dict[str, Any]:
    model = MNISTClassifier()
    return {
        "train_set": make_variant("double_colored", "train", num=16).dataset(),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
    }


def stream(_: Path) -> dict[str, Any]:
    bank = BankSource(make_tiny_cgn().freeze(), size=10)
    return {"train": CounterfactualDataset(digits(_)["train_set"], bank, batch_size=8)}


def photographs(folder: Path) -> dict[str, Any]:
    steps = [v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, True)]
    flatten = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32**2, len(CLASSES)))
    return {
        "train_set": ImageFolder(folder / "photos", v2.Compose(steps)),
        "MEAN": 0.0,
        "STD": 1.0,
        "match": match_real(0.0, 1.0, 32),
        "F": torch.nn.functional,
        "model": flatten,
        "optimizer": torch.optim.SGD(flatten.parameters(), 0.1),
        "my_masker": find_dark,
        "my_filler": lambda image, hole: image,
        "my_transform": v2.Compose(steps),
    }


def ensemble(folder: Path) -> dict[str, Any]:
    (folder / "runs" / "ensemble").mkdir(parents=True)
    save_tiny_ensemble(folder / "runs" / "ensemble" / "classifier.safetensors", list(CLASSES))
    return {"images": torch.rand(2, 3, 48, 48)}


def plain(folder: Path) -> dict[str, Any]:
    (folder / "runs" / "plain").mkdir(parents=True)
    network = torchvision.models.resnet18(num_classes=8)
    torch.save(network.state_dict(), folder / "runs" / "plain" / "classifier.pt")
    return {"torchvision": torchvision, "torch": torch}


def web(folder: Path) -> dict[str, Any]:
    return {"wds": webdataset, "real": iter(()), "urls": str(folder / "shards" / "*.tar")}


def nothing(_: Path) -> dict[str, Any]:
    return {}


PYTHON: dict[str, Callable[[Path], dict[str, Any]]] = {
    "docs/get-started.md: F.nll_loss(": digits,
    "docs/get-started.md: train.preview(": stream,
    "docs/mixing.md: Placement(scale=": nothing,
    "docs/mixing.md: TensorDataset(": nothing,
    "docs/mixing.md: train.preview(": stream,
    "docs/own-images.md: load_parts(": photographs,
    "docs/own-images.md: load_masker(": digits,
    "docs/photographs.md: write_masks(": photographs,
    "docs/photographs.md: write_parts(": photographs,
    "docs/photographs.md: read_place(": photographs,
    "docs/photographs.md: PartSet.open(": nothing,
    "docs/shards.md: ShardSource(": digits,
    "docs/shards.md: wds.RandomMix(": web,
    "docs/evaluation.md: factor_sensitivity(": digits,
    "docs/ensemble.md: load_ensemble(": ensemble,
    "docs/ensemble.md: resnet18(num_classes": plain,
}
"""Blocks of Python that are run here, by page and words, and what they find."""

PYTHON_ELSEWHERE = {
    "docs/own-images.md: class PhotosWithMasks": "tests/test_docs.py looks at its masks",
    "docs/imagenet.md: truncation=0.5": f"{WEIGHTS} and a GPU",
}
INSTEAD = {
    '"s3://bucket/set", refresh=64, num_workers=4': '"shards", refresh=8',
    '"masks", my_masker, MaskSettings(size=384': '"found", my_masker, MaskSettings(size=48',
    '"parts", PartConfig(masks="masks")': '"filled", PartConfig(masks="masks"), num_workers=0',
}


def block_of(key: str) -> str:
    page, words = key.split(": ")
    (body,) = (
        body
        for where, language, body in BLOCKS
        if (where, language) == (page, "python") and words in body
    )
    return body


@pytest.mark.parametrize("key", PYTHON)
# webdataset leaves closing its files to the collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_python_runs(key: str, workspace: Path) -> None:
    body = block_of(key)
    for large, small in {**SMALLER, **INSTEAD}.items():
        body = body.replace(large, small)
    names = PYTHON[key](workspace)
    exec(body, names)
    if isinstance(names.get("train"), CounterfactualDataset):
        assert len(next(iter(names["train"]))) >= 2


def test_every_block_of_python_is_run_or_listed() -> None:
    known = {block_of(key) for key in [*PYTHON, *PYTHON_ELSEWHERE]}
    assert {body for _, language, body in BLOCKS if language == "python"} == known


def test_the_loop_of_photographs_runs_as_its_diff_says(workspace: Path) -> None:
    (diff,) = (
        body
        for page, language, body in BLOCKS
        if (page, language) == ("docs/get-started.md", "diff")
    )
    names = "from cgn_augment import BankSource, CounterfactualDataset, Interventions, load_parts\n"
    after = "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] != "-")
    found = photographs(workspace)
    exec(names + after.replace("224", "32").replace("size=2000", "size=8"), found)
    assert len(found["images"]) == 16


@pytest.mark.parametrize("page", ["docs/photographs.md", "docs/shards.md"])
def test_samples_in_json_are_as_the_sets_have_them(page: str, workspace: Path) -> None:
    (shown,) = (
        json.loads(body) for where, language, body in BLOCKS if (where, language) == (page, "json")
    )
    if page == "docs/photographs.md":
        line = (workspace / "parts" / "index.jsonl").read_text().splitlines()[0]
        assert shown.keys() <= json.loads(line).keys()
        assert len(PartSet.open(workspace / "parts")) > 0
    else:
        (sample, *_) = sorted((workspace / "shards").glob("*.tar"))
        (name, *_) = [name for name in members(sample) if name.endswith(".json")]
        assert shown.keys() == json.loads(members(sample)[name]).keys()


def test_there_are_no_other_languages() -> None:
    assert {language for _, language, _ in BLOCKS} == {
        "diff",
        "json",
        "mermaid",  # drawn by tests/test_site.py
        "python",
        "sh",
        "text",  # of the FAQ, held by tests/test_faq.py, and of plan
    }


def test_a_new_block_would_be_found_out() -> None:
    assert why_not("cgn-augment nothing") is None
    assert why_not("train-generator small --images photos") == HOURS
