"""Processes that torchrun, Lightning and Accelerate start: one run, shared out and resumed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def launch(folder: Path, *command: str, **variables: str) -> None:
    """Runs Python with these arguments, and ends all that it started where it takes too long.

    `variables` are added to the environment.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
        "PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "tests")]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **variables,
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
    check_limited(tmp_path, num)


def check_limited(folder: Path, world_size: int) -> None:
    """Whether two epochs of one step each showed other images to each process."""
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]
    epochs = list(zip(*(report["limited"] for report in reports), strict=True))
    for ranks in epochs:
        read = [index for ((real, _),) in ranks for index in real]
        assert len(read) == len(set(read)) == 4 * world_size
    drawn = [number for ranks in epochs for ((_, made),) in ranks for number in made]
    assert len(drawn) == len(set(drawn)) == 2 * 2 * world_size


@pytest.mark.slow
def test_lightning_under_slurm(tmp_path: Path) -> None:
    """Tasks that srun has started, as far as a process can see of it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "MASTER_PORT": port,
    }
    command = (str(HERE / "launch_lightning.py"), str(tmp_path), "ddp", "2")
    with ThreadPoolExecutor(2) as tasks:
        started = [
            tasks.submit(
                launch, tmp_path, *command, **job, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)
            )
            for i in range(2)
        ]
        for task in started:
            task.result()
    check_ranks(tmp_path, 2)
    check_limited(tmp_path, 2)


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
