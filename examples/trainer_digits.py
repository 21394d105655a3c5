"""Hugging Face Trainer: a ViT on a stream, in place of the Trainer's own loader.

    python examples/trainer_digits.py --resume

Trainer skips what the epoch of its checkpoint had seen, but does not say which epoch that is.
"""

from __future__ import annotations

import argparse

from torch.utils.data import Dataset
from transformers import Trainer, TrainerState, TrainingArguments, ViTConfig
from transformers import ViTForImageClassification as Classifier
from transformers.trainer_utils import get_last_checkpoint

from cgn_augment import BankSource, CounterfactualDataset, load_cgn
from train_generator.mnist import make_variant

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


class Rows(Dataset):
    def __init__(self, split: str, num: int) -> None:
        self.digits = make_variant("double_colored", split, num=num).dataset()

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> dict:
        image, label = self.digits[index]
        return {"pixel_values": image, "labels": label}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-train", type=int, default=10_000, help="digits (default: 10000)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=100, help="steps (default: 100)")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", default="runs/trainer")
    args = parser.parse_args()

    source = BankSource(load_cgn("double-colored-mnist"), size=2000)
    rows, test = Rows("train", args.num_train), Rows("test", 1000)
    train = CounterfactualDataset(rows, source, batch_size=64, keys=("pixel_values", "labels"))
    config = ViTConfig(image_size=32, patch_size=8, num_labels=10, intermediate_size=128, **TINY)
    given = {"num_train_epochs": args.epochs, "save_steps": args.save_every, "learning_rate": 1e-3}
    trainer = Trainer(Classifier(config), TrainingArguments(args.out, **given))
    trainer.get_train_dataloader = train.as_loader
    last = get_last_checkpoint(args.out) if args.resume else None
    if last:
        train.set_epoch(int(TrainerState.load_from_json(f"{last}/trainer_state.json").epoch))
    trainer.train(resume_from_checkpoint=last)
    right = trainer.predict(test).predictions.argmax(1) == test.digits.tensors[1].numpy()
    print(f"test accuracy {right.mean():.1%}")


if __name__ == "__main__":
    main()
