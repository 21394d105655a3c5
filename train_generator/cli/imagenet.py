"""The commands of the ImageNet CGN; `train_generator.cli.program` runs them."""

from __future__ import annotations

from pathlib import Path

from cgn_augment.cli.options import settings_as_options
from cgn_augment.errors import ArgumentError
from train_generator.imagenet.card import write_imagenet_card
from train_generator.imagenet.config import ImageNetConfig, PresetName
from train_generator.imagenet.training import ImageNetTraining
from train_generator.imagenet.weights import fetch_all


@settings_as_options(
    ImageNetConfig,
    biggan="give --biggan, the file of BigGAN-deep's weights: `train-generator fetch-weights "
    "FOLDER` downloads it",
)
def imagenet(
    config: ImageNetConfig,
    out: str = "runs/imagenet",
    preset: PresetName | None = None,
    resume: bool = False,
    save_every: int = 10,
    sheet_every: int = 10,
) -> None:
    """Trains an ImageNet CGN from a pretrained BigGAN and U2-Net, without any data.

    The defaults are the settings of the released code. `fetch-weights` downloads the files.

    Args:
        config: settings.
        out: folder for the CGN, card, checkpoint, TensorBoard's events, measures and sheets.
        preset: code or paper: whose settings to use; options after it win.
        resume: continues the training in the folder.
        save_every: steps between checkpoints.
        sheet_every: steps between sheets.
    """
    if preset is not None:  # `expand_preset` has removed one from the command line
        raise ArgumentError(
            "a preset is chosen on the command line (--preset paper) and not in a file, which "
            "lists the settings themselves"
        )
    training = ImageNetTraining(
        config, Path(out), resume=resume, save_every=save_every, sheet_every=sheet_every
    )
    path = training.train()
    if training.ranks.is_main:
        print(f"generator: {path}")
        print(f"card: {write_imagenet_card(path, training)}")


def fetch_weights(
    out: str,
    files: list[str] | str = ["biggan-deep-256", "u2net"],  # noqa: B006 - shown as the default
) -> None:
    """Downloads published weights for ImageNet, or says where they are.

    Repeat the command after a failed download. Existing files are checked.

    Args:
        out: folder to write.
        files: biggan-deep-128, biggan-deep-256, biggan-deep-512, u2net, cgn, or several:
            '[biggan-deep-256, u2net]'.
    """
    names = [files] if isinstance(files, str) else files
    for line in fetch_all(names, Path(out), progress=True):
        print(line)
