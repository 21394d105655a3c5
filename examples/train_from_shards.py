"""Trains a classifier on real digits and on counterfactuals from shards, in two ways.

    python examples/make_shards.py runs/shards
    python examples/train_from_shards.py runs/shards

`stream` mixes them with CounterfactualDataset: every batch holds as many counterfactuals as real
images, and an interrupted run can be resumed. `pipeline` uses webdataset alone, for real data that
also comes from shards: RandomMix draws each sample from one of two pipelines.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import webdataset as wds
from torch.utils.data import DataLoader

from cgn_augment import CGNError, CounterfactualDataset, ShardSource
from train_generator.classifier import MNISTClassifier, measure_accuracy
from train_generator.mnist import VARIANTS, make_variant


def stream(train_set, shards, num_steps):
    source = ShardSource(shards, refresh=64)
    batches = CounterfactualDataset(train_set, source, batch_size=64, ratio=1.0)
    epochs = itertools.chain.from_iterable(itertools.repeat(batches))
    yield from itertools.islice(epochs, num_steps)


def pipeline(train_set, shards, num_steps):
    urls = [str(path) for path in sorted(Path(shards).glob("*.tar"))]
    made = wds.WebDataset(urls, shardshuffle=100, detshuffle=True, seed=0).repeat()
    made = made.shuffle(1000, seed=0).decode("torchrgb").to_tuple("png;jpg;webp", "cls")
    made = made.map_tuple(lambda image: image * 2 - 1, int)

    def real():  # real images from shards would be a second WebDataset
        while True:
            for index in torch.randperm(len(train_set)).tolist():
                image, label = train_set[index]
                yield image, int(label)

    mixed = wds.RandomMix([wds.DataPipeline(real), made], probs=[0.5, 0.5])
    batches = DataLoader(mixed, batch_size=128)
    yield from itertools.islice(batches, num_steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="folder of a set, such as make_shards.py writes")
    parser.add_argument("--variant", choices=VARIANTS, default="double_colored")
    parser.add_argument("--way", choices=["stream", "pipeline"], default="stream")
    parser.add_argument("--steps", type=int, default=782, help="default: 782, one epoch")
    parser.add_argument("--num-train", type=int, help="digits to train on (default: 50000)")
    parser.add_argument("--num-test", type=int, help="digits to test on (default: 10000)")
    arguments = parser.parse_args()

    train = make_variant(arguments.variant, "train", num=arguments.num_train).dataset()
    test = make_variant(arguments.variant, "test", num=arguments.num_test).dataset()
    torch.manual_seed(0)
    model = MNISTClassifier()
    optimizer = torch.optim.Adadelta(model.parameters())
    batches = {"stream": stream, "pipeline": pipeline}[arguments.way]
    for images, labels in batches(train, arguments.shards, arguments.steps):
        loss = F.nll_loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = measure_accuracy(model, DataLoader(test, batch_size=500))
    print(f"{arguments.way}: test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
