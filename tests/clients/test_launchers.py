"""Processes that torchrun, Lightning and Accelerate start: one run, shared out and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from client_helpers import check_ranks

HERE = Path(__file__).parent
REPO = HERE.parents[1]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node"]
# Without MPI, --cpu starts one process; the launcher of several GPUs needs none.
LAUNCH = ["accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--mixed_precision=no"]
LAUNCH += ["--dynamo_backend=no", "--main_process_port=0", "--num_processes"]

LIMIT = 300
"""Seconds, of which a quiet machine needs a tenth."""


def launch(folder: Path, *command: str) -> None:
    """Runs Python with these arguments, and ends all that it started where it takes too long."""
    environment = {
        **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
        "PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "tests")]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    run = subprocess.Popen(
        [sys.executable, "-m", *command]
        if command[0][-3:] != ".py"
        else [sys.executable, *command],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = run.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        printed = f"no end after {LIMIT} seconds\n{run.communicate()[0]}"
    assert run.returncode == 0, printed


SLOW = pytest.mark.slow


@pytest.mark.parametrize("num", [2, pytest.param(4, marks=SLOW)])
def test_torchrun(num: int, tmp_path: Path) -> None:
    launch(tmp_path, *TORCHRUN, str(num), str(HERE / "launch_torchrun.py"), str(tmp_path))
    check_ranks(tmp_path, num)


@pytest.mark.parametrize(
    ("strategy", "num"),
    [
        ("ddp_fork", 2),
        pytest.param("ddp", 2, marks=SLOW),
        pytest.param("ddp_spawn", 2, marks=SLOW),
        pytest.param("ddp_fork", 4, marks=SLOW),
        pytest.param("ddp", 4, marks=SLOW),
        pytest.param("ddp_spawn", 4, marks=SLOW),
    ],
)
def test_lightning(strategy: str, num: int, tmp_path: Path) -> None:
    launch(tmp_path, str(HERE / "launch_lightning.py"), str(tmp_path), strategy, str(num))
    check_ranks(tmp_path, num)


@pytest.mark.parametrize("num", [2, pytest.param(4, marks=SLOW)])
def test_accelerates_debug_launcher(num: int, tmp_path: Path) -> None:
    launch(tmp_path, str(HERE / "launch_accelerate.py"), str(tmp_path), str(num))
    check_ranks(tmp_path, num, "resumed", "skipped")


@pytest.mark.slow
@pytest.mark.parametrize("num", [2, 4])
def test_accelerate_launch(num: int, tmp_path: Path) -> None:
    launch(tmp_path, *LAUNCH, str(num), str(HERE / "launch_accelerate.py"), str(tmp_path))
    check_ranks(tmp_path, num, "resumed", "skipped")


@pytest.mark.slow
@pytest.mark.parametrize("num", [2, 4])
def test_trainer_of_transformers(num: int, tmp_path: Path) -> None:
    launch(tmp_path, *TORCHRUN, str(num), str(HERE / "launch_transformers.py"), str(tmp_path))
    check_ranks(tmp_path, num)
