"""A consistency loss: an image and its counterfactuals must get the same answer.

    python examples/consistency.py --cgn double-colored-mnist

Every real image of a batch comes with counterfactuals of its own shape, found by a masker; the
batch says which image each of them belongs to. Besides the usual loss, the classifier's answer for
a counterfactual is drawn towards its answer for the image.
"""

from __future__ import annotations

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cgn_augment import (
    BankSource,
    CGNError,
    CounterfactualDataset,
    RealShapeSource,
    load_cgn,
    load_masker,
)
from train_generator.classifier import MNISTClassifier, measure_accuracy
from train_generator.mnist import make_variant


def consistency_loss(log_probs: Tensor, real_index: Tensor, is_counterfactual: Tensor) -> Tensor:
    """Returns the mean divergence between a counterfactual's answer and that of its image.

    Args:
        log_probs: (B, K) float32, of the whole mixed batch.
        real_index: (B,) int64 row of the image that gives the shape, or -1.
        is_counterfactual: (B,) bool.
    """
    pairs = is_counterfactual & (real_index >= 0)
    image = log_probs[real_index[pairs]]
    return F.kl_div(log_probs[pairs], image, log_target=True, reduction="batchmean")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cgn", default="double-colored-mnist", help="name or path (default: %(default)s)")
    add("--masker", help="name or path (default: the one that comes with the CGN)")
    add("--weight", type=float, default=1.0, help="weight of the consistency loss (default: 1)")
    add("--num-per-shape", type=int, default=2, help="counterfactuals per image (default: 2)")
    add("--num-train", type=int, help="digits to train on (default: 50000)")
    add("--num-test", type=int, help="digits to test on (default: 10000)")
    arguments = parser.parse_args()

    textures = BankSource(load_cgn(arguments.cgn), size=2000)
    masker = load_masker(arguments.masker or arguments.cgn)
    source = RealShapeSource(masker, textures, num_per_shape=arguments.num_per_shape)
    train = CounterfactualDataset(
        make_variant("double_colored", "train", num=arguments.num_train).dataset(),
        source,
        batch_size=64,
        ratio=arguments.num_per_shape,
        output="dict",
    )
    test = make_variant("double_colored", "test", num=arguments.num_test)

    torch.manual_seed(0)
    model = MNISTClassifier()
    optimizer = torch.optim.Adadelta(model.parameters())
    for batch in tqdm(train):
        log_probs = model(batch["image"])
        loss = F.nll_loss(log_probs, batch["label"]) + arguments.weight * consistency_loss(
            log_probs, batch["real_index"], batch["is_counterfactual"]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = measure_accuracy(model, DataLoader(test.dataset(), batch_size=500))
    print(f"test accuracy {accuracy:.1%} after one epoch; real images by verdict: {source.counts}")


if __name__ == "__main__":
    try:
        main()
    except CGNError as error:
        sys.exit(f"error: {error}")
