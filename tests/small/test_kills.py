"""Trainings of a small generator whose processes are killed at any time."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from shard_helpers import NUM_KILLS
from small_helpers import train_on

from cgn_augment import load_cgn
from cgn_augment.files import leftovers
from train_generator.small.training import CGN_FILE

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["train_generator.small.training"])


def start(folder: Path) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=train_on, args=(folder,))
    process.start()
    return process


@pytest.mark.slow
def test_trainings_that_are_killed_and_resumed_end_with_the_same_weights(tmp_path: Path) -> None:
    begun = time.monotonic()
    whole = start(tmp_path / "whole")
    whole.join()
    life = time.monotonic() - begun
    assert whole.exitcode == 0
    expected = load_cgn(tmp_path / "whole" / CGN_FILE).state_dict()
    chance, kills, folders = random.Random(0), 0, 0
    while kills < NUM_KILLS:
        folders += 1
        folder, process = tmp_path / str(folders), None
        while process is None or process.exitcode != 0:
            first, begun = process is None, time.monotonic()
            process = start(folder)
            if kills < NUM_KILLS:
                process.join(chance.uniform(0, life / 2))
                kills += process.is_alive()
                if first and not process.is_alive():  # the machine has become faster
                    life = min(life, time.monotonic() - begun)
                process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
        assert leftovers(folder) == []
        found = load_cgn(folder / CGN_FILE).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
