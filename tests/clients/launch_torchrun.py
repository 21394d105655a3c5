"""A loop under `torchrun`: `torchrun --nproc_per_node 2 launch_torchrun.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from client_helpers import TinyNet, seen, step_on, stream, write_report
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    train = stream(num=24)  # before anybody knows of ranks, as at the top of a script
    dist.init_process_group("gloo")
    model = DistributedDataParallel(TinyNet())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    epochs, state = [], {}
    for epoch in range(2):
        epochs.append([])
        train.set_epoch(epoch)
        for batch in train:
            step_on(model, optimizer, batch, Tensor.backward)
            epochs[-1].append(seen(batch[0]))
            if (epoch, len(epochs[-1])) == (1, 1):
                state = train.state_dict()
    resumed = stream(num=24)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)  # says what is known already
    rest = [seen(images) for images, _ in resumed]
    report = {"rank": train.rank, "world_size": train.world_size}
    write_report(Path(sys.argv[1]), train.rank, {**report, "epochs": epochs, "resumed": rest})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
