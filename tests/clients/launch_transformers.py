"""Trainer under `torchrun`: `torchrun --nproc_per_node 2 launch_transformers.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from client_helpers import DictDigits, TinyNet, seen, stream, write_report
from torch import Tensor, nn
from transformers import Trainer, TrainerState, TrainingArguments


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = TinyNet()
        self.steps: list[Any] = []

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.steps.append(seen(pixel_values))
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def train(folder: Path, saved: Path | None = None) -> tuple[Any, list[Any]]:
    real = stream(DictDigits(24), batch_size=4, keys=("pixel_values", "labels"))
    options: dict[str, Any] = {"save_steps": 1, "num_train_epochs": 2, "disable_tqdm": True}
    net = Net()
    trainer = Trainer(net, TrainingArguments(str(folder), use_cpu=True, report_to=[], **options))
    trainer.get_train_dataloader = real.as_loader
    if saved:
        state = TrainerState.load_from_json(str(saved / "trainer_state.json"))
        real.set_epoch(int(state.epoch))
    trainer.train(resume_from_checkpoint=saved and str(saved))
    return real, net.steps


def main() -> None:
    folder = Path(sys.argv[1])
    real, steps = train(folder / "whole")
    length = len(real)
    _, rest = train(folder / "again", folder / "whole" / f"checkpoint-{length + 1}")
    report = {"rank": real.rank, "world_size": real.world_size}
    epochs = [steps[:length], steps[length:]]
    write_report(folder, real.rank, {**report, "epochs": epochs, "resumed": rest})


if __name__ == "__main__":
    main()
