"""The documents as a site: it builds without a warning, and holds what is public."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner
from conftest import REPO, load_tool
from mkdocs.__main__ import cli as mkdocs
from test_layout import ROOMS

import cgn_augment
import cgn_augment.cli.program as cli
import train_generator.cli.program as train_cli

docs_site = load_tool("docs_site")

FROM_ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]+src="?(?:https?:)?//"""
    r"""|<link[^>]+href="?(?:https?:)?//[^>]*(?:stylesheet|font|icon)|@import[^;]*//|url\(["']?https?:"""
)
"""What makes a page ask another server."""

UNSEEN = {"cgn_augment.errors", "cgn_augment.cli", "train_generator.cli"}
"""Rooms without a page of their own: errors are on that of the ground, commands have theirs."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as CI does."""
    folder = tmp_path_factory.mktemp("site")
    command = ["build", "--strict", "--config-file", str(REPO / "mkdocs.yml")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MkDocs' own code; what it says of pages is its log
        done = CliRunner().invoke(mkdocs, [*command, "--site-dir", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def documented(site: Path) -> set[str]:
    """Full names of what the reference describes."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[-1]
    return {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}


def test_the_build_is_strict_and_part_of_ci() -> None:
    settings = (REPO / "mkdocs.yml").read_text().split("validation:\n")[1].split("\n\n")[0]
    assert {line.strip() for line in settings.splitlines()} == {
        "omitted_files: warn",
        "absolute_links: warn",
        "unrecognized_links: warn",
        "anchors: warn",
        "not_found: warn",
    }
    assert "\nmypy\nNO_MKDOCS_2_WARNING=1 mkdocs build --strict" in (REPO / ".ci/run").read_text()


def test_pages_ask_no_other_server(site: Path) -> None:
    pages = [*site.rglob("*.html"), site / "site.css"]
    assert len(pages) > 40
    for page in pages:
        assert not FROM_ELSEWHERE.search(page.read_text()), page


def test_what_would_ask_another_server_is_found() -> None:
    for text in (
        '<script src="https://unpkg.com/mermaid">',
        "<img alt='' src=\"//host/a.png\">",
        '<link href="https://fonts.googleapis.com/css" rel="stylesheet">',
        "@import url(https://host/a.css)",
    ):
        assert FROM_ELSEWHERE.search(text), text
    assert not FROM_ELSEWHERE.search('<a href="https://arxiv.org">')


def test_the_reference_has_all_public_names(documented: set[str]) -> None:
    packages = [cgn_augment]
    for package, levels in ROOMS.items():
        for room in (name for names in levels for name in names):
            if f"{package}.{room}" not in UNSEEN:
                packages.append(importlib.import_module(f"{package}.{room}"))
    lacking = {
        f"{package.__name__}.{name}"
        for package in packages
        for name in getattr(package, "__all__", [])
        if f"{package.__name__}.{name}" not in documented
    }
    assert not lacking


def test_every_room_has_a_page(documented: set[str]) -> None:
    for package, levels in ROOMS.items():
        for room in (name for names in levels for name in names):
            full = f"{package}.{room}"
            assert full in UNSEEN or any(name.startswith(full) for name in documented), full


def test_the_index_of_the_reference_lists_the_names_of_a_loop() -> None:
    page = (REPO / "docs" / "reference" / "index.md").read_text()
    listed = re.findall(r"\[`(\w+)`\]\((\w+)\.md\)", page)
    assert sorted(name for name, _ in listed) == sorted(cgn_augment.__all__)
    for name, room in listed:
        module = getattr(cgn_augment, name).__module__.removeprefix("cgn_augment.")
        text = (REPO / "docs" / "reference" / f"{room}.md").read_text()
        assert f"cgn_augment.{module.split('.')[0]}" in text, (name, room)


def test_diagrams_are_drawn_and_code_is_shown(site: Path) -> None:
    for page, words in (("architecture", "CounterfactualDataset"), ("concepts", "bank")):
        text = (site / page / "index.html").read_text()
        (drawn,) = re.findall(r'<div class="diagram">(.*?)</div>', text, flags=re.DOTALL)
        assert "<svg" in drawn
        assert words in drawn
    code = (site / "files" / "examples" / "resnet_streaming.py" / "index.html").read_text()
    assert "torchrun" in code


def command_names() -> Iterator[str]:
    """Every command line that there is, as its program is called."""
    for main, program in ((cli.main, cli), (train_cli.main, train_cli)):
        with (
            mock.patch.object(program, "run_commands") as run,
            mock.patch.object(sys, "argv", ["program"]),
        ):
            main()
        name, commands = run.call_args.args[:2]
        yield from _names(name, commands)
    yield "train-generator masker drawn"


def _names(name: str, commands: dict[str, Any] | Callable[..., Any]) -> Iterator[str]:
    yield name
    if isinstance(commands, dict):
        for word, under in commands.items():
            if word != "_help":  # what --help says of the whole
                yield from _names(f"{name} {word}", under)


def test_the_page_of_commands_has_the_help_of_each(site: Path) -> None:
    page = (REPO / "docs" / "reference" / "commands.md").read_text()
    named = docs_site.HELP.findall(page)
    assert sorted(named) == sorted(command_names())
    assert re.findall(r"^##+ (.*)$", page, flags=re.MULTILINE) == named
    shown = (site / "reference" / "commands" / "index.html").read_text()
    assert "--max-hole" in shown
    assert "<!-- help" not in shown


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("cgn-augment parts", "Takes photographs apart"),
        ("train-generator masker drawn", "Trains a masker"),
    ],
)
def test_help_is_what_the_command_prints(command: str, first: str) -> None:
    lines = docs_site.print_help(command).splitlines()
    assert lines[0].startswith(first)
    assert "options:" in lines
    assert max(map(len, lines)) <= 76
    with pytest.raises(ValueError, match="--help ended with 2"):
        docs_site.print_help(f"{command.split()[0]} nothing")


def test_links_are_turned_to_where_files_are_on_the_site() -> None:
    turned = docs_site.turn_links
    assert turned("[a](../SECURITY.md)", "docs/shards.md") == "[a](security.md)"
    assert turned("![a](images/b.png)", "docs/mixing.md") == "![a](images/b.png)"
    card = "cgn_augment/masks/weights/colored-mnist.md"
    assert turned(f"[card](../{card}#x)", "docs/generators.md") == f"[card](files/{card}#x)"
    assert turned("![a](colored-mnist.png)", card) == "![a](colored-mnist.png)"
    assert turned("[a](https://b.org/c) [d](#e)", "README.md") == "[a](https://b.org/c) [d](#e)"
    assert turned('<img src="docs/images/a.png">', "README.md") == '<img src="images/a.png">'


def test_the_examples_of_the_hook_hold() -> None:
    assert doctest.testmod(docs_site).failed == 0
