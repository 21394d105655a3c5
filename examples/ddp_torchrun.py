"""torchrun: each process reads its part of the real images and draws its own counterfactuals.

    torchrun --nproc_per_node 2 examples/ddp_torchrun.py

The same command continues a stopped run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from cgn_augment import BankSource, CounterfactualDataset, load_cgn
from train_generator.classifier import MNISTClassifier, measure_accuracy
from train_generator.mnist import make_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-train", type=int, help="digits to train on (default: 50000)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=100, help="steps (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("ddp.pt"))
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    digits = make_variant("double_colored", "train", num=arguments.num_train).dataset()
    source = BankSource(load_cgn("double-colored-mnist"), size=2000)
    train = CounterfactualDataset(digits, source, batch_size=64)  # in place of DistributedSampler
    model = MNISTClassifier()
    optimizer = torch.optim.Adadelta(model.parameters())
    parts = {"model": model, "optimizer": optimizer, "train": train}
    if arguments.out.is_file():
        saved = torch.load(arguments.out, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])  # the first rank's place is everybody's
    parallel = DistributedDataParallel(model)
    for epoch in range(train.epoch, arguments.epochs):
        for step, (images, labels) in enumerate(train, 1):
            loss = F.nll_loss(parallel(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            is_due = step % arguments.save_every == 0 or train.is_at_end()
            if is_due and dist.get_rank() == 0:
                torch.save({name: part.state_dict() for name, part in parts.items()}, arguments.out)
        if dist.get_rank() == 0:
            test = DataLoader(make_variant("double_colored", "test", num=1000).dataset(), 500)
            print(f"epoch {epoch}: test accuracy {measure_accuracy(model, test):.1%}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
