"""Accelerate on several processes: `accelerate launch launch_accelerate.py FOLDER`.

With a number behind it, `debug_launcher` forks that many processes out of this one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, debug_launcher
from client_helpers import TinyNet, seen, step_on, stream, write_report


def train_on(folder: Path, train: Any) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    model = TinyNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, train.as_loader())
    accelerator.register_for_checkpointing(train)
    epochs: list[list[Any]] = []
    for epoch in range(2):
        epochs.append([])
        for batch in loader:
            step_on(model, optimizer, batch, accelerator.backward)
            epochs[-1].append(seen(batch[0]))
            if (epoch, len(epochs[-1])) == (1, 1):
                accelerator.save_state(folder / "state", safe_serialization=False)

    again, resumed = Accelerator(cpu=True), stream(num=24)
    again.register_for_checkpointing(resumed)
    again.load_state(folder / "state")
    rest = [seen(images) for images, _ in again.prepare(resumed.as_loader())]

    skipping = stream(num=24).as_loader()
    skipping.set_epoch(1)
    skipped = [seen(images) for images, _ in again.skip_first_batches(skipping, 1)]
    ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    assert (train.rank, train.world_size) == (*ranks.values(),)
    report = {**ranks, "epochs": epochs, "resumed": rest, "skipped": skipped}
    write_report(folder, accelerator.process_index, report)


def main() -> None:
    folder, train = Path(sys.argv[1]), stream(num=24)
    if len(sys.argv) > 2:
        debug_launcher(train_on, (folder, train), num_processes=int(sys.argv[2]))
    else:
        train_on(folder, train)


if __name__ == "__main__":
    main()
