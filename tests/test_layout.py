"""Who may import whom: each room imports from the rooms before it, never the other way round."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

# From the bottom up. Rooms of one line do not know each other.
PLUGIN = (
    ("errors",),
    ("types", "files", "checks", "ranks"),
    ("functional",),
    ("class_map",),
    ("interventions",),
    ("images", "pictures"),
    ("generators",),
    ("shards", "masks"),
    ("parts",),
    ("sources",),
    ("stream",),
    ("cli",),
)
TRAINER = (
    ("training",),
    ("losses", "metrics"),
    ("small", "masks", "imagenet", "classifier"),
    ("robustness",),
    ("mnist",),
    ("cli",),
)
MAX_MODULES = {"cgn_augment": 9, "train_generator": 7}
ROOMS = {"cgn_augment": PLUGIN, "train_generator": TRAINER}


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


def room_of(path: Path) -> str:
    return path.relative_to(REPO).parts[1].removesuffix(".py")


@pytest.mark.parametrize("package", ROOMS)
def test_every_file_has_a_room_and_few_are_loose(package: str) -> None:
    known = {name for level in ROOMS[package] for name in level} | {"__init__"}
    assert {room_of(path) for path in sources(package)} == known
    assert len(list((REPO / package).glob("*.py"))) <= MAX_MODULES[package]


@pytest.mark.parametrize(
    "path",
    [*sources("cgn_augment"), *sources("train_generator")],
    ids=lambda path: str(path.relative_to(REPO)),
)
def test_imports_run_one_way(path: Path) -> None:
    package, room = path.relative_to(REPO).parts[0], room_of(path)
    levels = {name: level for level, names in enumerate(ROOMS[package]) for name in names}
    imported = imported_modules(path)
    assert not {name for name in imported if name.split(".")[0] in ("tests", "benchmarks")}
    if package == "cgn_augment":
        assert not {name for name in imported if name.startswith("train_generator")}
    if room == "__init__":
        return
    for name in imported:
        if name.startswith(f"{package}."):
            other = name.split(".")[1]
            assert other == room or levels[other] < levels[room], f"{room} imports {other}"


def drawn_arrows() -> set[tuple[str, str]]:
    """The arrows of the picture, as pairs of full names of rooms."""
    text = (REPO / "docs" / "architecture.md").read_text().split("```mermaid")[1].split("```")[0]
    names, package = {}, ""
    for line in text.splitlines():
        package = line.split()[1] if "subgraph" in line else package
        if found := re.match(r" +(\w+)\[", line):
            names[found[1]] = f"{package}.{found[1].removeprefix('train_')}"
    pairs = [line.split("-->") for line in text.splitlines() if "-->" in line]
    arrows = [(source, target) for source, targets in pairs for target in targets.split("&")]
    return {(names[source.strip()], names[target.strip()]) for source, target in arrows}


def real_arrows() -> set[tuple[str, str]]:
    """Which room imports from which; loose modules are the ground, the package's index no room."""
    found = set()
    for path in (path for package in ROOMS for path in sources(package)):
        origin = full_room(".".join(path.relative_to(REPO).with_suffix("").parts))
        targets = {full_room(name) for name in imported_modules(path)}
        found |= {(origin, target) for target in targets if target and target != origin}
    return {(origin, target) for origin, target in found if origin}


def full_room(module: str) -> str | None:
    package, *rest = module.split(".")
    if package not in ROOMS or not rest or rest[0] == "__init__":
        return None
    return f"{package}.{rest[0] if (REPO / package / rest[0]).is_dir() else 'ground'}"


def test_the_picture_of_the_rooms_shows_the_imports() -> None:
    drawn, real = drawn_arrows(), real_arrows()
    assert drawn <= real, drawn - real
    covered = set(drawn)
    while more := {(a, d) for a, b in covered for c, d in drawn if b == c} - covered:
        covered |= more
    assert real <= covered, real - covered


def test_the_stream_knows_only_the_protocol_of_sources() -> None:
    for name in ("dataset", "step"):
        imported = imported_modules(REPO / "cgn_augment" / "stream" / f"{name}.py")
        assert not {module for module in imported if "sources" in module or "generators" in module}


def test_tests_mirror_the_rooms() -> None:
    rooms = {name for levels in ROOMS.values() for level in levels for name in level}
    extra = {"benchmarks", "clients", "fuzz", "tools"}
    assert {path.name for path in (REPO / "tests").iterdir() if path.is_dir()} - {
        "__pycache__"
    } <= rooms | extra


@pytest.mark.parametrize("path", sources("examples"), ids=lambda path: path.stem)
def test_examples_use_public_names_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not {alias.name for alias in node.names if alias.name.startswith("_")}
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.endswith("__"), node.attr


def test_every_package_of_the_plugin_is_typed() -> None:
    assert (REPO / "cgn_augment" / "py.typed").is_file()
