"""Fixtures that several files share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import ModuleType

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from cgn_augment.functional import isolated_rng
from cgn_augment.generators import SmallCGN
from cgn_augment.masks import UNetMasker
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.writing import write_parts

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # which share the cores, as do the processes that they start
    NUM_THREADS = max(1, torch.get_num_threads() // WORKERS)
    torch.set_num_threads(NUM_THREADS)
    os.environ["OMP_NUM_THREADS"] = str(NUM_THREADS)

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"
BUCKETS = count()
VARIANT_NAMES = ("colored", "double_colored", "wildlife")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --fuzz N: broken files of each kind that tests/fuzz reads."""
    parser.addoption("--fuzz", type=int, default=0, metavar="N")


def make_tiny_cgn(seed: int = 0, **config: int) -> SmallCGN:
    """A CGN of width 4 with random weights, not frozen; the global generators stay as they are."""
    with isolated_rng(seed, torch.device("cpu")):
        return SmallCGN(**{"width": 4, **config})


def make_red_masker() -> UNetMasker:
    """A masker that takes what is red, more than half, for the object; it is not trained."""
    masker = UNetMasker(width=4).eval()
    with torch.no_grad():
        for weight in masker.parameters():
            if weight.dim() == 4:
                weight.zero_()
        masker.at_full[0].weight[0, 0, 1, 1] = 1  # the positive part of red ...
        masker.at_full[3].weight[0, 0, 1, 1] = 1
        masker.up_full[0].weight[0, 8, 1, 1] = 1  # ... goes past the lower resolutions
        masker.head.weight[0, 0] = 100
        masker.head.bias.fill_(-5)
    return masker


@pytest.fixture(scope="session")
def tiny_cgn() -> SmallCGN:
    """A frozen CGN of ten classes and width 4."""
    return make_tiny_cgn().freeze()


@pytest.fixture(scope="session")
def published_paths() -> dict[str, Path]:
    """The published small checkpoints by variant; skips where they are not here."""
    paths = {name: SHARED / "checkpoints" / f"cgn_{name}_mnist.pth" for name in VARIANT_NAMES}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        pytest.skip(f"the published checkpoints are not here: {missing}")
    return paths


@pytest.fixture(scope="session")
def golden_paths() -> dict[str, Path]:
    """Outputs of the published small CGNs by variant; skips where they are not here."""
    paths = {name: SHARED / "golden" / f"mnist_{name}.npz" for name in VARIANT_NAMES}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        pytest.skip(f"the golden outputs are not here: {missing}")
    return paths


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator with seed 0."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def parts_folder(tmp_path: Path) -> Path:
    """The set of parts that the example of `write_parts` writes."""
    pixels = np.full((48, 64, 4), 200, np.uint8)
    pixels[..., 3] = 0
    pixels[12:30, 20:40] = 20, 20, 20, 255
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "1.png")
    config = PartConfig(masks="alpha")
    write_parts(tmp_path / "photos", tmp_path / "parts", config, num_workers=0)
    return tmp_path / "parts"


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket in memory, or of a local server that speaks S3 and is found by the environment."""
    if request.param == "memory":
        yield "memory://shards"
        fsspec.filesystem("memory").rm("/shards", recursive=True)
        return
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # A file system that another test has left in the cache would ask its own, stopped server.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    name = f"shards-{next(BUCKETS)}"  # the server keeps the buckets of earlier tests
    files.mkdir(name)
    yield f"s3://{name}"
    server.stop()


def run_command(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> int:
    """Runs a command line in this process and returns its exit status."""
    monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def load_tool(name: str) -> ModuleType:
    """Imports a script of tools/."""
    spec = importlib.util.spec_from_file_location(name, REPO / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
