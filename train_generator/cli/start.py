"""Starts `train-generator`, as `cgn_augment.cli.start` does."""

from cgn_augment.cli.start import start


def main() -> None:
    """Runs `train-generator`."""
    start("train-generator", "train_generator.cli.program")
