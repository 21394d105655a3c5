"""Lightning: the Trainer takes the stream in place of a loader, and saves its position.

    python examples/lightning_digits.py --devices 2

Its checkpoints hold the stream's state: the same command continues from the last one.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from cgn_augment import BankSource, CounterfactualDataset, load_cgn
from train_generator.classifier import MNISTClassifier, measure_accuracy
from train_generator.mnist import make_variant


class Digits(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = MNISTClassifier()

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.nll_loss(self.model(images), labels)

    def configure_optimizers(self):
        return torch.optim.Adadelta(self.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-train", type=int, help="digits to train on (default: 50000)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--out", default="runs/lightning")
    arguments = parser.parse_args()

    digits = make_variant("double_colored", "train", num=arguments.num_train).dataset()
    source = BankSource(load_cgn("double-colored-mnist"), size=2000)
    train = CounterfactualDataset(digits, source, batch_size=64)  # knows its rank when it is read

    model, options = Digits(), {"devices": arguments.devices, "max_epochs": arguments.epochs}
    keep = ModelCheckpoint(arguments.out, save_last=True, every_n_train_steps=100)
    trainer = Trainer(callbacks=[keep], logger=False, **options)
    trainer.fit(model, train, ckpt_path="last")
    test = DataLoader(make_variant("double_colored", "test", num=1000).dataset(), 500)
    print(f"test accuracy {measure_accuracy(model.model, test):.1%}")


if __name__ == "__main__":
    main()
