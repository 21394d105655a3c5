"""The README's code, the docstrings' examples, and the results that the docs quote."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import torch
from colored_parts_helpers import make_parts, write_photos
from PIL import Image
from torch.utils.data import TensorDataset

import cgn_augment
import train_generator
from cgn_augment import BankSource
from train_generator.classifier import MNISTClassifier

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in [REPO / "README.md", *REPO.glob("docs/*.md")]}

MODULES = sorted(
    info.name
    for package in (cgn_augment, train_generator)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_hold(name: str, request: pytest.FixtureRequest) -> None:
    module = importlib.import_module(name)
    names = {**vars(module), "getfixture": request.getfixturevalue}
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in finder.find(module, name, globs=names):
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", cgn_augment.__all__)
def test_every_public_name_is_described_and_most_have_an_example(name: str) -> None:
    public = getattr(cgn_augment, name)
    assert public.__doc__
    told_elsewhere = {
        "CGNError",
        "Counterfactuals",
        "Masker",
        "Mechanisms",
        "MixedBatch",
        "RealBatch",
    }
    assert (">>>" in public.__doc__) != (name in told_elsewhere)


def blocks(name: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", DOCS[name], flags=re.DOTALL)


def test_the_readmes_loop_runs() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", README, flags=re.DOTALL)
    block = "\n".join(line[1:] for line in diff.splitlines() if line[0] in "+ ")
    model = MNISTClassifier()
    before = model[1].weight.clone()
    names = {
        "train_set": TensorDataset(torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8)),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        **{name: getattr(cgn_augment, name) for name in ("BankSource", "CounterfactualDataset")},
        **{"load_cgn": cgn_augment.load_cgn, "F": torch.nn.functional},
    }
    exec(block.replace("size=2000", "size=20"), names)
    assert names["images"].shape == (16, 3, 32, 32)
    assert not torch.equal(model[1].weight, before)


def test_masks_of_a_data_set_go_through_transforms_with_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = (b for b in blocks("own-images.md") if "class PhotosWithMasks" in b)
    for path in write_photos(tmp_path / "photos" / "train", num=9, size=60).rglob("*.png"):
        picture = Image.open(path)
        mask = tmp_path / "photos" / "train_masks" / path.parent.name / path.name
        mask.parent.mkdir(parents=True, exist_ok=True)
        picture.getchannel("A").save(mask)
        picture.convert("RGB").save(path)
    monkeypatch.chdir(tmp_path)
    names = {"bank": BankSource(make_parts(48), 12)}
    exec(block.replace("224", "48").replace("batch_size=64", "batch_size=9"), names)
    torch.manual_seed(0)
    images, labels, masks = next(iter(names["train"]))  # type: ignore[call-overload]
    assert images.shape == (18, 3, 48, 48)
    assert masks.shape == (18, 1, 48, 48)
    assert masks.dtype is torch.uint8
    assert labels.shape == (18,)
    inside = masks[:9, 0] == 255
    assert inside.any()
    red = images[:9, 0] * 0.229 + 0.485  # 200 and more of 255 inside of an object, else few
    edge = torch.nn.functional.max_pool2d((~inside[:, None]).float(), 3, 1, 1)[:, 0] > 0
    assert (red[inside & ~edge] > 0.7).all()


def test_the_readmes_diff_is_that_of_the_example() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", README, flags=re.DOTALL)
    source = (REPO / "examples" / "drop_in.py").read_text()
    for line in diff.replace('"double-colored-mnist"', "checkpoint").splitlines():
        assert line[1:].replace("in train:", "in tqdm(train):") in source


def test_all_extras_of_users_are_described() -> None:
    settings = ConfigParser()
    settings.read(REPO / "setup.cfg")
    described = re.findall(r"^\| `cgn-augment\[(\w+)\]`", DOCS["get-started.md"], re.MULTILINE)
    assert {*described, "docs", "test"} == set(settings["options.extras_require"])


def test_ci_runs_the_readmes_test_command() -> None:
    marked = README.split("<!-- test command -->\n")[1].splitlines()
    assert marked[0] == "```sh"
    assert marked[1] == "python -m pip install '.[test]' && pytest -n 2 --dist loadfile"
    assert marked[2] == "```"
    assert "<!-- test command -->" in (REPO / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", ["photographs", "mask_quality"])
def test_the_tables_of_photographs_are_those_of_the_benchmarks(name: str) -> None:
    table = (REPO / "benchmarks" / "results" / name / "table.md").read_text()
    shown = DOCS["results.md"].split(f"{name}/table.md -->\n")[1]
    assert shown.removesuffix("<!-- /") == table


@pytest.mark.parametrize("name", ["stream", "photographs_stream"])
def test_the_documented_ratios_are_those_of_the_benchmark(name: str) -> None:
    results = json.loads((REPO / "benchmarks" / "results" / f"{name}.json").read_text())
    for what, ratio in results["ratios"].items():
        assert f"| {what} | {ratio['median']:.2f} |" in DOCS["results.md"]
