"""Accelerate: `prepare` takes the stream as a loader, and `save_state` its place.

    accelerate launch examples/accelerate_digits.py

The same command continues a stopped run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm import tqdm

from cgn_augment import BankSource, CounterfactualDataset, load_cgn
from train_generator.classifier import MNISTClassifier, measure_accuracy
from train_generator.mnist import make_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-train", type=int, help="digits to train on (default: 50000)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=100, help="steps (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("runs/accelerate"))
    arguments = parser.parse_args()

    accelerator = Accelerator()
    digits = make_variant("double_colored", "train", num=arguments.num_train).dataset()
    source = BankSource(load_cgn("double-colored-mnist").to(accelerator.device), size=2000)
    train = CounterfactualDataset(digits, source, batch_size=64)
    model = MNISTClassifier()
    optimizer = torch.optim.Adadelta(model.parameters())
    model, optimizer, loader = accelerator.prepare(model, optimizer, train.as_loader())
    if arguments.out.is_dir():
        accelerator.load_state(arguments.out)
    for epoch in range(train.epoch, arguments.epochs):
        progress = tqdm(loader, f"epoch {epoch}", disable=not accelerator.is_main_process)
        for step, (images, labels) in enumerate(progress, 1):
            loss = F.nll_loss(model(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            if step % arguments.save_every == 0:
                accelerator.save_state(arguments.out)
        accelerator.save_state(arguments.out)
    test = DataLoader(make_variant("double_colored", "test", num=1000).dataset(), 500)
    accuracy = measure_accuracy(accelerator.unwrap_model(model), test)
    accelerator.print(f"test accuracy {accuracy:.1%} after epoch {train.epoch}")


if __name__ == "__main__":
    main()
