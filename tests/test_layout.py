"""Who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

# From the bottom up: a module imports only from layers below its own, and from its own package.
LAYERS = (
    ("errors",),
    ("types", "files"),
    ("functional", "classes"),
    ("class_map",),
    ("interventions", "mixing", "batches", "epochs"),
    ("gates", "completion"),
    ("generators",),
    ("maskers",),
    ("real_mechanisms",),
    ("sources", "transforms", "loaders"),
    ("real", "real_shapes"),
    ("arguments",),
    ("step",),
    ("dataset",),
    ("visualize", "sampling", "interpolation", "animation"),
    ("commands",),
    ("shards",),
    ("cli",),
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_modules(path: Path) -> set[str]:
    """Full names of the modules that a file imports, other than for type checkers alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(str(node.module))
    return found


def sources(folder: str) -> list[Path]:
    return sorted((REPO / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("cgn_augment"), ids=lambda path: path.stem)
def test_the_plugin_imports_downwards_and_never_the_trainer(path: Path) -> None:
    imported = imported_modules(path)
    assert not {name for name in imported if name.startswith("train_generator")}
    part = path.relative_to(REPO / "cgn_augment").parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for name in imported:
        if name.startswith("cgn_augment."):
            other = name.split(".")[1]
            assert other == part or LEVELS[other] < LEVELS[part], f"{part} imports {other}"


def test_the_stream_knows_only_the_protocol_of_sources() -> None:
    for name in ("dataset", "step"):
        imported = imported_modules(REPO / "cgn_augment" / f"{name}.py")
        assert "cgn_augment.sources.bank" not in imported
        assert not {module for module in imported if "generators" in module}


@pytest.mark.parametrize("path", sources("examples"), ids=lambda path: path.stem)
def test_examples_use_public_names_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not {alias.name for alias in node.names if alias.name.startswith("_")}
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr == "__name__", node.attr


def test_every_package_of_the_plugin_is_typed() -> None:
    assert (REPO / "cgn_augment" / "py.typed").is_file()
