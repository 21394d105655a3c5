"""The README's code, the docstrings' examples, and the results that the docs quote."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import cgn_augment
import train_generator
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


def test_the_readmes_loop_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    model = MNISTClassifier()
    before = model[1].weight.clone()
    names = {
        "train_set": TensorDataset(torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8)),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
    }
    exec(block.replace("size=2000", "size=20"), names)
    assert names["images"].shape == (16, 3, 32, 32)
    assert not torch.equal(model[1].weight, before)


def test_the_readmes_diff_is_that_of_the_example() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", README, flags=re.DOTALL)
    source = (REPO / "examples" / "drop_in.py").read_text()
    for line in diff.replace('"double-colored-mnist"', "checkpoint").splitlines():
        assert line[1:].replace("in train:", "in tqdm(train):") in source


def test_ci_runs_the_readmes_test_command() -> None:
    marked = README.split("<!-- test command -->\n")[1].splitlines()
    assert marked[0] == "```sh"
    assert marked[1] == "python -m pip install '.[test]' && pytest -n 2 --dist loadfile"
    assert marked[2] == "```"
    assert "<!-- test command -->" in (REPO / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", DOCS)
def test_links_and_pictures_of_the_docs_are_there(name: str) -> None:
    folder = REPO if name == "README.md" else REPO / "docs"
    for target in re.findall(r"\]\(([^)#]+)", DOCS[name]):
        if not target.startswith("http"):
            assert (folder / target).is_file(), target


def test_the_documented_ratios_are_those_of_the_benchmark() -> None:
    results = json.loads((REPO / "benchmarks" / "results" / "stream.json").read_text())
    for name, ratio in results["ratios"].items():
        assert f"| {name} | {ratio['median']:.2f} |" in DOCS["results.md"]
