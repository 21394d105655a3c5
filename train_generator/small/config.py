"""Settings for training the small CGN; the defaults are this project's recipe.

`paper/` holds the settings of Sauer and Geiger, ICLR 2021, as YAML files for `--config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from cgn_augment.checks import (
    require_choices,
    require_counts,
    require_positive,
    require_shares,
    require_weights,
)
from cgn_augment.errors import ArgumentError
from cgn_augment.generators.small import ShapeNetwork, TextureNetwork
from train_generator.small.initialization import Initialization
from train_generator.training.precision import Precision

DiscriminatorName = Literal["patch", "linear", "conv"]
AdversarialName = Literal["hinge", "lsgan"]
InitializationName = Initialization | Literal["default"]
FeaturesName = Literal["none", "vgg16", "random", "trained"]


@dataclass(frozen=True)
class FactorsConfig:
    """Settings of the adversarial stage: all mechanisms against a discriminator of whole images.

    Attributes:
        num_steps: steps; the paper trains 15 epochs of 3125.
        batch_size: real images per step, and as many composed ones.
        images_per_texture: neighbours in a batch that share a foreground and a background, each
            moved to another place. Drawing textures is most of a step's cost.
        discriminator: "patch" (spectral norm, sees the whole image), or the paper's "linear" and
            "conv".
        discriminator_width: channels of the first convolution, or units of a linear layer.
        adversarial: "hinge", or the paper's "lsgan".
        learning_rate: learning rate of the generator's Adam.
        normalization_rate: factor of the learning rate for the generator's batch normalisations.
            Their output has variance 1 until their weights change, so a colour that is the same in
            all images is learned slowly at a factor of 1.
        discriminator_learning_rate: learning rate of the discriminator's Adam.
        beta2: second beta of both; the first is 0.5.
        initialization: how weights are drawn: "default" as PyTorch does, or as in the paper.
        gain: gain of the paper's initialisations.
        instance_noise: standard deviation of Gaussian noise on all inputs of the discriminator, in
            grey levels of [-1, 1], so that flat colours do not give real images away.
        blob_steps: steps in advance that teach the shape mechanism round blobs in the centre, so
            that it is clear from the start which of the two textures is the object's.
        entropy_weight: weight of the masks' binary entropy; rises over `entropy_warmup` steps.
        entropy_warmup: steps; 0 gives the full weight at once.
        size_weight: weight of the loss on masks smaller than `size_low` or larger than `size_high`.
        size_low: share of the image.
        size_high: share of the image.
        border_weight: weight of the mean mask within `border` pixels of the image's edge: objects
            are in the centre.
        border: width, in pixels.
        gram_weights: weights of the four blocks of the Gram loss; each counts as weight² · 5000.
        features: features of the Gram loss; "none" leaves the loss out.
        features_file: path of torchvision's VGG-16 weights; downloaded if not given.
        average: decay of the running average of the weights, which is what is kept.
    """

    num_steps: int = 4000
    batch_size: int = 48
    images_per_texture: int = 4
    discriminator: DiscriminatorName = "patch"
    discriminator_width: int = 48
    adversarial: AdversarialName = "hinge"
    learning_rate: float = 4.5e-4
    normalization_rate: float = 1.0
    discriminator_learning_rate: float = 3e-4
    beta2: float = 0.99
    initialization: InitializationName = "default"
    gain: float = 0.02
    instance_noise: float = 0.1
    blob_steps: int = 150
    entropy_weight: float = 0.3
    entropy_warmup: int = 600
    size_weight: float = 40.0
    size_low: float = 0.08
    size_high: float = 0.25
    border_weight: float = 10.0
    border: int = 5
    gram_weights: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    features: FeaturesName = "none"
    features_file: str | None = None
    average: float = 0.998

    def __post_init__(self) -> None:
        require_counts(self, "batch_size", "images_per_texture", "discriminator_width", "border")
        require_counts(self, "num_steps", "blob_steps", "entropy_warmup", least=0)
        require_positive(self, "learning_rate", "discriminator_learning_rate", "gain")
        require_positive(self, "normalization_rate")
        require_weights(self, "entropy_weight", "size_weight", "border_weight", "instance_noise")
        require_shares(self, "average", "beta2")
        require_choices(self, discriminator=DiscriminatorName, adversarial=AdversarialName)
        require_choices(self, initialization=InitializationName, features=FeaturesName)
        if not 0 <= self.size_low <= self.size_high <= 1:
            raise ArgumentError(
                "size_low and size_high must be 0 <= size_low <= size_high <= 1, got "
                f"{self.size_low} and {self.size_high}"
            )
        if self.border >= 16:
            raise ArgumentError(f"border must be less than 16, got {self.border}")
        weights = self.gram_weights
        if len(weights) != 4 or not all(math.isfinite(w) and w >= 0 for w in weights):
            raise ArgumentError(f"gram_weights must be four of 0 or more, got {weights}")
        if self.batch_size % self.images_per_texture:
            raise ArgumentError(
                f"images_per_texture ({self.images_per_texture}) must divide batch_size "
                f"({self.batch_size})"
            )
        if self.batch_size < 2 * self.images_per_texture:
            raise ArgumentError(  # its normalisation needs two
                f"batch_size ({self.batch_size}) must be {2 * self.images_per_texture} or more, "
                "so that a step draws two textures of each kind: raise it, or lower "
                "images_per_texture"
            )
        if (self.features == "none") != (not any(self.gram_weights)):
            raise ArgumentError(
                f"features {self.features!r} do not fit gram_weights {self.gram_weights}: give "
                "both, or 'none' and zeros"
            )


@dataclass(frozen=True)
class TexturesConfig:
    """Settings of the stage that trains the texture mechanisms on whole textures of real images.

    Attributes:
        num_steps: steps; 0 leaves the stage out.
        num_textures: foregrounds and backgrounds to learn, per class.
        batch_size: textures of each kind per step.
        learning_rate: learning rate of Adam for mechanisms and encoders; falls to 0 in the second
            half.
        reconstruction_weight: weight of the mean square error of the reconstruction.
        kl_weight: weight of the divergence between codes and standard normal noise.
        average: decay of the running average of the weights.
    """

    num_steps: int = 4000
    num_textures: int = 20
    batch_size: int = 32
    learning_rate: float = 2e-3
    reconstruction_weight: float = 10.0
    kl_weight: float = 1e-4
    average: float = 0.998

    def __post_init__(self) -> None:
        require_counts(self, "num_steps", least=0)
        require_counts(self, "num_textures")
        require_counts(self, "batch_size", least=2)  # for the batch normalisation
        require_positive(self, "learning_rate")
        require_weights(self, "reconstruction_weight", "kl_weight")
        require_shares(self, "average")


@dataclass(frozen=True)
class MaskerConfig:
    """Settings of the stages that learn to find masks, first in samples, then in real images.

    Attributes:
        num_steps: steps of each of them; 0 leaves them and the later stages out.
        rounds: how often the masker is trained again, on recombinations of real images taken apart
            by the masks of the previous round.
        batch_size: images per step.
        num_factors: masks, foregrounds and backgrounds of the generator to recombine.
        num_textures: foregrounds and backgrounds of real images to recombine, per class.
        learning_rate: highest learning rate of Adam; it rises and falls once.
        noise: standard deviation of Gaussian noise on the samples, in grey levels of [-1, 1].
        shift: largest shift of masks, in pixels.
    """

    num_steps: int = 500
    rounds: int = 4
    batch_size: int = 64
    num_factors: int = 4000
    num_textures: int = 20
    learning_rate: float = 5e-3
    noise: float = 0.05
    shift: int = 2

    def __post_init__(self) -> None:
        require_counts(self, "batch_size", "num_factors", "num_textures")
        require_counts(self, "num_steps", "rounds", "shift", least=0)
        require_positive(self, "learning_rate")
        require_weights(self, "noise")


@dataclass(frozen=True)
class ShapesConfig:
    """Settings of the stage that trains the shape mechanism on masks found in real images.

    Attributes:
        num_steps: steps; 0 leaves the stage out.
        batch_size: found masks per step, and as many drawn ones.
        learning_rate: learning rate of Adam for mechanism and encoder; falls to 0 in the second
            half.
        kl_weight: weight of the divergence between codes and standard normal noise.
        codes_per_mask: codes per mask that the flow is fitted to in a step.
        class_weight: weight of the cross entropy of drawn masks, by a classifier of found masks.
        class_warmup: steps over which that weight rises.
        sharpness: final factor of the masks' logits; see `sharpen`.
        average: decay of the running average of the weights.
    """

    num_steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    kl_weight: float = 0.5
    codes_per_mask: int = 4
    class_weight: float = 1.0
    class_warmup: int = 1000
    sharpness: float = 4.0
    average: float = 0.998

    def __post_init__(self) -> None:
        require_counts(self, "batch_size", least=2)  # for the batch normalisation
        require_counts(self, "codes_per_mask")
        require_counts(self, "num_steps", "class_warmup", least=0)
        require_positive(self, "learning_rate", "sharpness")
        require_weights(self, "kl_weight", "class_weight")
        require_shares(self, "average")


@dataclass(frozen=True)
class SmallConfig:
    """All settings of a training, except for its images.

    Attributes:
        seed: seed of every draw.
        shape_network: deep, or published for the paper's; see `SmallCGN`.
        texture_network: deep, or published for the paper's.
        device: auto takes a GPU if there is one; or cpu, cuda, cuda:1.
        precision: no is float32; bf16 is twice as fast on a CPU with AVX-512 or on a GPU.
        factors: the adversarial stage.
        masker: the stages that learn to find masks.
        texturing: the stage that trains textures on whole ones, completed from real images.
        shapes: the stage that trains the shape mechanism on found masks.
    """

    seed: int = 0
    shape_network: ShapeNetwork = "deep"
    texture_network: TextureNetwork = "deep"
    device: str = "auto"
    precision: Precision = "no"
    factors: FactorsConfig = field(default_factory=FactorsConfig)
    masker: MaskerConfig = field(default_factory=MaskerConfig)
    texturing: TexturesConfig = field(default_factory=TexturesConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)

    def __post_init__(self) -> None:
        require_choices(self, precision=Precision)
        require_choices(self, shape_network=ShapeNetwork, texture_network=TextureNetwork)
        require_counts(self, "seed", least=0)
        if (self.shapes.num_steps or self.texturing.num_steps) and not self.masker.num_steps:
            raise ArgumentError(
                "the later stages need masks that were found: give masker.num_steps above 0, or "
                "set shapes.num_steps and texturing.num_steps to 0"
            )
        for stage, part, network in (
            ("shapes", "shapes", self.shape_network),
            ("textures", "texturing", self.texture_network),
        ):
            if getattr(self, part).num_steps and network != "deep":
                raise ArgumentError(
                    f"the {stage} stage trains no {stage.removesuffix('s')}_network but 'deep': "
                    f"give 'deep', or set {part}.num_steps to 0"
                )
