"""Sets written on a Ray cluster of two nodes, in an environment of its own: `.ci/slow` makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from part_helpers import config_for, make_photos
from shard_helpers import FIFTY, FailingCGN, contents, render

from cgn_augment.errors import DataError, UsageError
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.parts.writing import write_parts
from cgn_augment.shards import ShardConfig, render_shards
from cgn_augment.shards.on_ray import RayEngine

ray = pytest.importorskip("ray", reason="Ray is large, and starts processes of its own")
psutil = pytest.importorskip("psutil")

pytestmark = [
    pytest.mark.slow,
    # Ray keeps its logs open while its processes run, and leaves some of them to themselves.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONFIG = ShardConfig(num=2000, shard_size=100, format="jpg")
SETTINGS = ("--num", 2000, "--shard-size", 100, "--format", "jpg")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of a core each, that find this package and these helpers."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{REPO}{os.pathsep}{REPO / 'tests'}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def checkpoint(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cgn") / "tiny.safetensors"
    save_cgn(tiny_cgn, path)
    return path


@pytest.fixture(scope="module")
def whole(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the set that one process writes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    render(tiny_cgn, out, CONFIG)
    return contents(out)


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cgn_augment.cli", *map(str, arguments), "--engine", "ray"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def start_shards(checkpoint: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    return start("shards", "--cgn", checkpoint, "--out", out, *SETTINGS, *more)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Returns the exit status, the output, and the errors without what a bar wrote over."""
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def wait_for_shards(process: subprocess.Popen[str], out: Path, num: int) -> None:
    while len(list(out.glob("*.tar"))) < num:
        assert process.poll() is None, end(process)
        time.sleep(0.01)


def test_a_node_that_is_killed_in_the_middle_changes_no_byte(
    cluster: Any, checkpoint: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1)
    process = start_shards(checkpoint, tmp_path / "set")
    wait_for_shards(process, tmp_path / "set", 4)
    cluster.remove_node(node, allow_graceful=False)
    status, out, errors = end(process)
    assert status == 0, errors
    assert "complete, 2000 images in 20 shards" in out
    assert "all workers: 100%" in errors
    assert "2000/2000" in errors
    assert contents(tmp_path / "set") == whole


def test_a_worker_that_is_killed_in_the_middle_changes_no_byte(
    cluster: Any, checkpoint: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    process = start_shards(checkpoint, tmp_path / "set")
    killed = 0
    for num in (2, 5, 8):
        wait_for_shards(process, tmp_path / "set", num)
        for worker in [each for each in psutil.process_iter() if "ray::_write" in each.name()][:1]:
            worker.kill()
            killed += 1
    status, out, errors = end(process)
    assert killed
    assert status == 0, errors
    assert "complete, 2000 images in 20 shards" in out
    assert contents(tmp_path / "set") == whole


def test_two_of_the_same_command_at_once_write_one_set(
    cluster: Any, checkpoint: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    processes = [start_shards(checkpoint, tmp_path / "set", "--resume") for _ in range(2)]
    for process in processes:
        status, out, errors = end(process)
        assert status == 0, errors
        assert "complete, 2000 images in 20 shards" in out
        assert "2000/2000" in errors
    assert contents(tmp_path / "set") == whole


def test_ctrl_c_ends_in_a_line_and_leaves_a_set_that_resumes(
    cluster: Any, checkpoint: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    process = start_shards(checkpoint, out)
    wait_for_shards(process, out, 3)
    process.send_signal(signal.SIGINT)
    status, _, errors = end(process)
    assert status == 130
    assert errors.splitlines()[-1] == (
        "cgn-augment shards: interrupted; the same command with --resume completes the set"
    )
    assert "Traceback" not in errors
    left = contents(out)
    assert left.items() <= whole.items()
    assert "manifest.json" not in left
    status, told, errors = end(start_shards(checkpoint, out, "--resume"))
    assert status == 0, errors
    assert "complete, 2000 images in 20 shards" in told
    assert contents(out) == whole


def test_photographs_are_taken_apart_from_a_relative_path(cluster: Any, tmp_path: Path) -> None:
    make_photos(tmp_path, 12)
    config = config_for(Path())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        write_parts("photos", "here", config, num_workers=0)
    given = ("--masks", "masks", "--fill", "none", "--shard-size", 3)
    status, out, errors = end(start("parts", "photos", "there", *given, cwd=tmp_path))
    assert status == 0, errors
    assert "there: complete, 24 images in 8 shards" in out
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.parametrize(
    ("way", "error", "message"),
    [
        ("raise", DataError, "^it is broken$"),
        ("die", UsageError, r"counterfactuals-00000\d.tar could not be .* the worker died each"),
    ],
)
def test_what_fails_each_time_is_one_error(
    way: str, error: type[Exception], message: str, cluster: Any, tmp_path: Path
) -> None:
    failing = FailingCGN(width=4).freeze()
    failing.way = way
    with pytest.raises(error, match=message):
        render_shards(failing, tmp_path / "set", FIFTY, engine=RayEngine(retries=1))
    assert not ray.is_initialized()
    assert set(contents(tmp_path / "set")) == {"_settings.json"}


def test_a_cluster_that_is_not_there_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        status, _, errors = end(start_shards(checkpoint, tmp_path / "set"))
    assert status == 2
    assert "no Ray cluster at RAY_ADDRESS=127.0.0.1:1 can be used" in errors
    assert "Traceback" not in errors


def test_a_program_that_uses_ray_keeps_its_connection(
    cluster: Any, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    ray.init(logging_level="ERROR")
    render_shards(tiny_cgn, tmp_path / "set", FIFTY, engine=RayEngine(cpus=0.5))
    assert ray.is_initialized()
    ray.shutdown()
    render(tiny_cgn, tmp_path / "here")
    assert contents(tmp_path / "set") == contents(tmp_path / "here")
