"""The commands that train generators; `train_generator.cli.program` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cgn_augment import load_cgn
from cgn_augment.cli.options import settings_as_options
from cgn_augment.errors import ArgumentError
from train_generator.metrics.masks import intersection_over_union
from train_generator.mnist.textures import Textures, load_textures
from train_generator.mnist.training import label_variant, measure_for_card
from train_generator.mnist.variants import Variant, make_variant
from train_generator.small.card import Measured, assumptions, write_card
from train_generator.small.config import SmallConfig
from train_generator.small.images import IMAGE_SIZE, LabelledImages, read_class_folders, read_masks
from train_generator.small.measure import NOTES, measure_drawn
from train_generator.small.training import SmallTraining
from train_generator.training.checkpoints import check_folder

NUM_MEASURED = 10_000
"""Number of digits to measure masks on."""


@settings_as_options(SmallConfig)
def small(
    config: SmallConfig,
    out: str = "runs/small",
    variant: Variant | None = None,
    images: str | None = None,
    masks: str | None = None,
    image_size: int = IMAGE_SIZE,
    textures: str | None = None,
    num_train: int | None = None,
    resume: bool = False,
    save_every: int = 200,
) -> None:
    """Trains a small generator from images and their labels alone.

    Each image must show one object, in the centre and smaller than a quarter of the image, and the
    classes must differ in texture and background; docs/generators.md lists all assumptions.

    Args:
        config: settings.
        out: folder for the generator, its card, checkpoint, TensorBoard's events and sheets.
        variant: of MNIST: colored, double_colored or wildlife; wildlife unless images are given.
        images: instead of a variant: folder with one folder of images per class.
        masks: true masks of the images: a tree like theirs, of PNG files that are white on the
            object. The card then says how good the found masks are; they are used for nothing else.
        image_size: size to which images are cropped and resized; the small generator draws only
            32x32 pixels.
        textures: wildlife only: folder with object/ and background/, ten images each; the
            procedural ones by default.
        num_train: for a variant: digits to train on; all 50 000 by default.
        resume: continues the training in the folder.
        save_every: steps between checkpoints.
    """
    if masks is not None and not config.masker.num_steps:
        raise ArgumentError("--masks are for masks that are found: set masker.num_steps above 0")
    if images is None and variant is None:
        variant = "wildlife"
    check_folder(Path(out), resume)  # before reading images, which takes long
    given = open_images(variant, textures, images, masks, image_size, num_train, config.seed)
    if images is not None:
        print(assumptions(config))
    training = SmallTraining(config, given.data, Path(out), resume=resume, save_every=save_every)
    path = training.train()
    print(f"generator: {path}")
    measured = measure_small(training, path, given)
    seconds = training.trainer.seconds
    print(f"card: {write_card(path, config, given.data, given.flags, seconds, measured)}")


@dataclass(frozen=True, eq=False)
class GivenImages:
    """The images that the command line names.

    Attributes:
        data: images and labels.
        masks: true masks (N, 1, 32, 32) bool, if any.
        flags: the flags that name them.
        stacks: textures of the wildlife variant from a folder.
    """

    data: LabelledImages
    masks: Tensor | None
    flags: Mapping[str, object]
    stacks: Textures | None = None


def open_images(
    variant: Variant | None,
    textures: str | None,
    images: str | None,
    masks: str | None,
    image_size: int = IMAGE_SIZE,
    num: int | None = None,
    seed: int = 0,
) -> GivenImages:
    """Renders a variant, or reads a folder.

    Raises:
        ArgumentError: arguments of both are given, or the image size is not 32.
        DataError: the content of a folder cannot be used.
    """
    own, theirs = ("--images and --masks", "--variant, --textures and --num-train")
    if images is not None:
        if (variant, textures, num) != (None, None, None):
            raise ArgumentError(f"{own} are for images of your own, {theirs} for MNIST: give one")
        folder = Path(images)
        data, paths = read_class_folders(folder, image_size)
        true = None if masks is None else read_masks(Path(masks), folder, paths)
        return GivenImages(data, true, {"images": images, "masks": masks})
    if masks is not None or image_size != IMAGE_SIZE or variant is None:
        raise ArgumentError(
            f"{own} are for images of your own: give --images FOLDER too; the masks of a variant "
            f"are known, and its images have {IMAGE_SIZE} pixels"
        )
    stacks = None if textures is None else load_textures(textures)
    made = make_variant(variant, "train", seed=seed, textures=stacks, num=num)
    flags = {"variant": variant, "textures": textures, "num_train": num}
    return GivenImages(label_variant(made, variant, stacks), made.masks, flags, stacks)


def measure_small(training: SmallTraining, path: Path, given: GivenImages) -> Measured:
    """Measures a generator with the metrics that fit its training images."""
    cgn, data, found, overlap = load_cgn(path), given.data, None, None
    variant = data.facts.get("variant")
    if training.config.masker.num_steps:
        # Digits come in random order, but images of folders class by class, so all are used.
        found = training.find_masks(None if variant is None else NUM_MEASURED)
    if found is not None and given.masks is not None:
        overlap = intersection_over_union(found, given.masks[: len(found)])
    if variant is not None:
        return measure_for_card(path.stem, cgn, variant, given.stacks, overlap=overlap)
    num_textures = training.config.texturing.num_textures
    table = measure_drawn(cgn, data.images, data.labels, found, num_textures)
    return Measured(table, NOTES, training.draw(cgn), overlap=overlap)
