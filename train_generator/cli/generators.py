"""The commands that train generators; `train_generator.cli.program` runs them."""

from __future__ import annotations

from pathlib import Path

from cgn_augment import load_cgn
from cgn_augment.generators.small import ShapeNetwork, TextureNetwork
from train_generator.mnist.textures import load_textures
from train_generator.mnist.variants import Variant, make_variant
from train_generator.small.card import write_card
from train_generator.small.config import (
    FactorsConfig,
    MaskerConfig,
    ShapesConfig,
    SmallConfig,
    TexturesConfig,
)
from train_generator.small.masker_training import MaskerTraining, write_masker_card
from train_generator.small.training import SmallTraining
from train_generator.training.precision import Precision

NUM_MEASURED = 10_000
"""Real images that a masker is measured on."""


def small(
    out: str = "runs/small",
    variant: Variant = "wildlife",
    textures: str | None = None,
    seed: int = 0,
    num_train: int | None = None,
    shape_network: ShapeNetwork = "deep",
    texture_network: TextureNetwork = "deep",
    device: str = "auto",
    precision: Precision = "no",
    factors: FactorsConfig = FactorsConfig(),  # noqa: B008
    masker: MaskerConfig = MaskerConfig(),  # noqa: B008
    texturing: TexturesConfig = TexturesConfig(),  # noqa: B008
    shapes: ShapesConfig = ShapesConfig(),  # noqa: B008
    resume: bool = False,
    save_every: int = 200,
) -> None:
    """Trains the small generator of an MNIST variant from its biased images.

    Args:
        out: folder for the generator, checkpoint, TensorBoard's events and sheets.
        variant: colored, double_colored or wildlife.
        textures: wildlife only: folder with object/ and background/, ten images each; the
            procedural ones by default.
        seed: of everything that is drawn.
        num_train: digits to train on; all 50 000 by default.
        shape_network: deep, or published for the paper's.
        texture_network: deep, or published for the paper's.
        device: auto takes a GPU if there is one; or cpu, cuda, cuda:1.
        precision: no is float32; bf16 is twice as fast on a CPU with AVX-512 or on a GPU.
        factors: the adversarial stage.
        masker: the stage that learns to find masks.
        texturing: the stage that trains textures on whole ones, completed from real images.
        shapes: the stage that trains the shape mechanism on found masks.
        resume: goes on with the training in the folder.
        save_every: steps between checkpoints.
    """
    config = SmallConfig(
        variant=variant,
        textures=textures,
        seed=seed,
        num_train=num_train,
        shape_network=shape_network,
        texture_network=texture_network,
        device=device,
        precision=precision,
        factors=factors,
        masker=masker,
        texturing=texturing,
        shapes=shapes,
    )
    training = SmallTraining(config, Path(out), resume=resume, save_every=save_every)
    path = training.train()
    print(f"generator: {path}")
    print(f"card: {write_card(path, config, training.trainer.seconds)}")


def masker(
    cgn: str = "wildlife-mnist",
    out: str = "runs/masker",
    variant: Variant | None = None,
    textures: str | None = None,
    width: int = 8,
    seed: int = 0,
    device: str = "cpu",
    training: MaskerConfig = MaskerConfig(num_steps=2000, rounds=0),  # noqa: B008 - frozen
    resume: bool = False,
) -> None:
    """Trains a masker on what a small generator draws, and measures it on real images.

    With rounds it learns from the real images too, without their true masks.

    Args:
        cgn: path of a checkpoint or name of a bundled generator.
        out: folder for the masker, its card, checkpoint and TensorBoard's events.
        variant: of the real images for the rounds and to measure it on: colored, double_colored or
            wildlife. Their true masks are used for the measurement alone.
        textures: wildlife only: folder with object/ and background/, ten images each.
        width: channels of the U-Net at full resolution.
        seed: of everything that is drawn.
        device: cpu or cuda.
        training: settings; num_textures is for the rounds.
        resume: goes on with the training in the folder.
    """
    data = None
    if variant is not None:  # what is wrong with the images is known before the training
        stacks = None if textures is None else load_textures(textures)
        data = make_variant(variant, "train", textures=stacks, num=NUM_MEASURED)
    network = load_cgn(cgn, device=device)
    real = None if data is None else (data.images, data.labels)
    run = MaskerTraining(network, training, Path(out), real, width=width, seed=seed, resume=resume)
    path = run.train()
    print(f"masker: {path}")
    card = write_masker_card(path, cgn, data, run.trainer.seconds, training.rounds)
    print(card.read_text())
    print(f"card: {card}")
