"""The commands that train maskers; `train_generator.cli.program` runs them."""

from __future__ import annotations

from pathlib import Path

from cgn_augment import load_cgn
from cgn_augment.cli.options import settings_as_options
from cgn_augment.errors import ArgumentError
from cgn_augment.generators import SmallCGN
from train_generator.cli.generators import NUM_MEASURED, open_images
from train_generator.masks.config import PhotoMaskerConfig
from train_generator.masks.training import PhotoMaskerTraining, write_photo_card
from train_generator.mnist.variants import Variant
from train_generator.small.config import MaskerConfig
from train_generator.small.images import IMAGE_SIZE
from train_generator.small.masker_training import MaskerTraining, write_masker_card


@settings_as_options(PhotoMaskerConfig)
def masker(
    config: PhotoMaskerConfig,
    images: str | None = None,
    masks: str | None = None,
    out: str = "runs/masker",
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> None:
    """Trains a masker on photographs, some of which have masks that you drew.

    'cgn-augment masks IMAGES OUT --masker FILE' then finds the masks of the others. ('masker drawn'
    trains one on what a generator draws.)

    Args:
        config: settings.
        images: folder with images, in folders of classes or not.
        masks: a tree like theirs, of PNG files that are white on the object: the mask of cat/1.jpg
            is cat/1.png. Images without a mask are ignored.
        out: folder for the masker, its card, checkpoint and TensorBoard's events.
        seed: seed of every draw.
        device: auto, cpu or cuda; auto takes a GPU if there is one.
        resume: continues the training in the folder.
    """
    if images is None or masks is None:
        raise ArgumentError(
            "give --images FOLDER and --masks FOLDER, with the masks that you drew of some of "
            "them; 'train-generator masker drawn --cgn FILE' learns from a generator instead"
        )
    run = PhotoMaskerTraining(
        config, Path(images), Path(masks), Path(out), device=device, seed=seed, resume=resume
    )
    print(f"{len(run.learned)} images with masks to learn from, {len(run.held)} held out")
    path = run.train()
    card = write_photo_card(run, path)
    print(card.read_text(encoding="utf-8"))
    print(f"masker: {path}; cgn-augment masks {images} OUT --masker {path}")


def drawn(
    cgn: str = "wildlife-mnist",
    out: str = "runs/masker",
    variant: Variant | None = None,
    images: str | None = None,
    masks: str | None = None,
    textures: str | None = None,
    width: int = 8,
    seed: int = 0,
    device: str = "cpu",
    training: MaskerConfig = MaskerConfig(num_steps=2000, rounds=0),  # noqa: B008 - frozen
    resume: bool = False,
) -> None:
    """Trains a masker on what a small generator draws, and measures it on real images.

    With rounds it also learns from the real images, without their true masks.

    Args:
        cgn: path of a checkpoint or name of a bundled generator.
        out: folder for the masker, its card, checkpoint and TensorBoard's events.
        variant: variant of the real images for the rounds and for measuring: colored,
            double_colored or wildlife. Their true masks are only used for measuring.
        images: instead of a variant: folder with one folder of images per class.
        masks: true masks of the images, as for `small`.
        textures: wildlife only: folder with object/ and background/, ten images each.
        width: channels of the U-Net at full resolution.
        seed: seed of every draw.
        device: cpu or cuda.
        training: settings; num_textures is for the rounds.
        resume: continues the training in the folder.
    """
    if textures is not None and variant is None and images is None:
        raise ArgumentError("--textures are those of --variant wildlife: pass it too")
    data = true = real = None
    if (variant, images, masks) != (None, None, None):  # report errors before anything slow
        num = None if variant is None else NUM_MEASURED
        given = open_images(variant, textures, images, masks, num=num)
        data, true = given.data, given.masks
        real = data.images, data.labels
    network = load_cgn(cgn, device=device)
    if not isinstance(network, SmallCGN):
        raise ArgumentError(f"{cgn} is no small generator: give one of {IMAGE_SIZE}x{IMAGE_SIZE}")
    run = MaskerTraining(network, training, Path(out), real, width=width, seed=seed, resume=resume)
    path = run.train()
    print(f"masker: {path}")
    card = write_masker_card(path, cgn, run.trainer.seconds, training.rounds, data, true)
    print(card.read_text())
    print(f"card: {card}")
