"""Lightning's Trainer on several processes: `python launch_lightning.py FOLDER STRATEGY NUM`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from client_helpers import TinyNet, seen, stream, write_report
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class Net(LightningModule):
    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self.model, self.folder, self.name = TinyNet(), folder, name
        self.epochs: list[list[Any]] = [[], []]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        self.epochs[self.current_epoch].append(seen(images))
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_train_end(self) -> None:
        ranks = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        seen = self.epochs[1] if self.name == "resumed" else self.epochs
        write_report(self.folder, self.trainer.global_rank, {**ranks, self.name: seen})


def fit(
    net: Net, train: Any, strategy: str, devices: int, limit: int | None = None, **options: Any
) -> None:
    # Saved after the first step of the second epoch: 24 real images are read in steps of four.
    every = 24 // devices // 4 + (24 // devices % 4 > 0) + 1
    keep = ModelCheckpoint(net.folder, "{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_epochs=2,
        limit_train_batches=limit,
        logger=False,
        callbacks=[keep] if net.name == "epochs" else [],
        enable_checkpointing=net.name == "epochs",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, train, **options)


def main() -> None:
    folder, strategy, devices = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    fit(Net(folder, "epochs"), stream(num=24), strategy, devices)
    (saved,) = folder.glob("*.ckpt")
    train = stream(num=24).as_loader()  # whose state is that of the bare stream
    fit(Net(folder, "resumed"), train, strategy, devices, ckpt_path=saved)
    fit(Net(folder, "limited"), stream(num=24), strategy, devices, limit=1)


if __name__ == "__main__":
    main()
