"""Counterfactuals in an existing training loop: the loop before, the loop after, and their diff.

    python examples/drop_in.py

Both loops train for one epoch on the same biased digits, and are tested on digits whose colours say
nothing about the class.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from cgn_augment import BankSource, CGNError, CounterfactualDataset, load_cgn
from train_generator.classifier import MNISTClassifier, measure_accuracy
from train_generator.mnist import VARIANTS, load_textures, make_variant


def before(train_set, model, optimizer, checkpoint):
    train = DataLoader(train_set, batch_size=64, shuffle=True)
    for images, labels in tqdm(train):
        loss = F.nll_loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def after(train_set, model, optimizer, checkpoint):
    cgn = load_cgn(checkpoint)
    source = BankSource(cgn, size=2000)
    train = CounterfactualDataset(train_set, source, batch_size=64, shuffle=True, prefetch=2)
    for images, labels in tqdm(train):
        loss = F.nll_loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cgn",
        nargs="?",
        default="double-colored-mnist",
        help="name or path of a CGN that was trained on the variant (default: %(default)s)",
    )
    parser.add_argument("--variant", choices=VARIANTS, default="double_colored")
    parser.add_argument("--textures", help="wildlife only: folder with object/ and background/")
    parser.add_argument("--num-train", type=int, help="digits to train on (default: 50000)")
    parser.add_argument("--num-test", type=int, help="digits to test on (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    textures = None if arguments.textures is None else load_textures(arguments.textures)
    train = make_variant(arguments.variant, "train", textures=textures, num=arguments.num_train)
    test = make_variant(arguments.variant, "test", textures=textures, num=arguments.num_test)
    load_cgn(arguments.cgn)  # report a bad path before the first loop

    lines = [inspect.getsource(loop).splitlines(keepends=True) for loop in (before, after)]
    sys.stdout.writelines(difflib.unified_diff(*lines, "before", "after"))
    for loop in (before, after):
        torch.manual_seed(arguments.seed)
        model = MNISTClassifier()
        optimizer = torch.optim.Adadelta(model.parameters())
        loop(train.dataset(), model, optimizer, arguments.cgn)
        accuracy = measure_accuracy(model, DataLoader(test.dataset(), batch_size=500))
        print(f"{loop.__name__}: test accuracy {accuracy:.1%} after one epoch")


if __name__ == "__main__":
    try:
        main()
    except CGNError as error:
        sys.exit(f"error: {error}")
