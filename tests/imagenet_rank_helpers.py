"""One of two processes that train an ImageNet CGN together."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from imagenet_training_helpers import make_config, tiny_features
from training_helpers import press

from cgn_augment.generators.fingerprint import hash_weights
from train_generator.imagenet import training as imagenet_module
from train_generator.imagenet.training import ImageNetTraining
from train_generator.training.trainer import CHECKPOINT


def train_rank(rank: int, folder: Path, settings: dict[str, Any]) -> None:
    """Trains on one of two ranks; rank 1 alone gets Ctrl-C, in its second batch of the first step.

    Both stop, and both go on.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    # accelerate looks for an address; the processes meet in a file
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    os.environ.update({name: str(value) for name, value in environment.items()})
    place = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    imagenet_module.make_features = tiny_features

    def make(resume: bool) -> ImageNetTraining:
        config = make_config(**settings)
        return ImageNetTraining(config, folder / "run", resume=resume, progress=False, save_every=1)

    training, drawn = make(False), []
    draw = training.cgn.draw_noise

    def look(num: int, generator: torch.Generator) -> torch.Tensor:
        noise = draw(num, generator)
        drawn.append(round(float(noise.sum()), 4))
        if len(drawn) == 2 and rank == 1:
            press()
        return noise

    training.cgn.draw_noise = look
    with pytest.raises(KeyboardInterrupt):
        training.train()
    position = torch.load(folder / "run" / CHECKPOINT, weights_only=True)["position"]
    again = make(True)
    again.train()
    found = {"position": position, "drawn": drawn, "hash": hash_weights(again.cgn)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
