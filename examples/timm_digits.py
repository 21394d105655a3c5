"""timm: its models, Mixup, losses and schedules, on a stream.

    python examples/timm_digits.py

Mixup pairs row i with row -i and needs an even number of rows: `shuffle_rows` puts real images and
counterfactuals in random order, so that all pairs occur, and `batch_multiple` keeps it even.
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter
from torch.utils.data import DataLoader
from tqdm import tqdm

from cgn_augment import BankSource, CounterfactualDataset, load_cgn
from train_generator.classifier import measure_accuracy
from train_generator.mnist import make_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-train", type=int, default=10_000, help="digits (default: 10000)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--model", default="test_resnet", help="any of timm's")
    arguments = parser.parse_args()

    digits = make_variant("double_colored", "train", num=arguments.num_train).dataset()
    source = BankSource(load_cgn("double-colored-mnist"), size=2000)
    train = CounterfactualDataset(
        digits, source, batch_size=64, ratio=0.75, shuffle_rows=True, batch_multiple=2
    )
    torch.manual_seed(0)
    model = timm.create_model(arguments.model, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    scheduler = CosineLRScheduler(optimizer, arguments.epochs * len(train), t_in_epochs=False)
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=10)
    loss_of, losses = SoftTargetCrossEntropy(), AverageMeter()
    for epoch in range(arguments.epochs):
        for step, (images, labels) in enumerate(tqdm(train, f"epoch {epoch}"), 1):
            images, labels = mixup(images, labels)
            loss = loss_of(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
            scheduler.step_update(epoch * len(train) + step)
    test = DataLoader(make_variant("double_colored", "test", num=1000).dataset(), 500)
    print(f"mean loss {losses.avg:.3f}, test accuracy {measure_accuracy(model, test):.1%}")


if __name__ == "__main__":
    main()
