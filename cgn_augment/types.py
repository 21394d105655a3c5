"""The values that the components exchange, and the protocols of the components.

`Source` is the central idea: anything with `sample(num, generator, step, real)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Generator, Tensor

from cgn_augment.errors import ArgumentError

FACTORS = ("shape", "texture", "background")
"""The three factors of an image, in the order of every `(3, N)` tensor of classes."""


class _Rows:
    """A dataclass of tensors with one row per item; some may be None."""

    def __post_init__(self) -> None:
        lengths = {name: len(part) for name, part in self._tensors().items()}
        if len(set(lengths.values())) > 1:
            raise ArgumentError(f"{type(self).__name__} needs equal lengths, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self._tensors().values())))

    def to(self, device: torch.device | str) -> Self:
        """Returns a copy with each tensor on `device`."""
        tensors = self._tensors().items()
        return type(self)(**{name: part.to(device, non_blocking=True) for name, part in tensors})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: part for name, part in vars(self).items() if part is not None}


@dataclass(frozen=True)
class Factors(_Rows):
    """What the three mechanisms drew: masks, foregrounds and backgrounds.

    Attributes:
        mask: (N, 1, H, W) float32 in [0, 1]; 1 is object.
        foreground: (N, 3, H, W) float32 in [-1, 1]; the texture covers all of it.
        background: (N, 3, H, W) float32 in [-1, 1].

    Raises:
        ArgumentError: the three differ in length.
    """

    mask: Tensor
    foreground: Tensor
    background: Tensor


@dataclass(frozen=True)
class Counterfactuals(_Rows):
    """Images with a known class for each of their three factors.

    Attributes:
        images: (N, 3, H, W) float32 in [-1, 1].
        shape: (N,) int64 class of the shape.
        texture: (N,) int64 class of the texture.
        background: (N,) int64 class of the background.
        real: (N,) int64 row of the step's real batch that the shape comes from; -1 where the
            generator drew it. The label of a real shape is the user's own, whatever `shape` says.
            None if no shape comes from the real batch.
        mask: (N, 1, H, W) float32 in [0, 1]; 1 is object. None if unknown.

    Raises:
        ArgumentError: the tensors differ in length.
    """

    images: Tensor
    shape: Tensor
    texture: Tensor
    background: Tensor
    real: Tensor | None = None
    mask: Tensor | None = None


class Affine(NamedTuple):
    """A linear map of the values of each channel: `scale * value + shift`.

    Attributes:
        scale: factor of each of the three channels.
        shift: what is then added.

    Examples:
        >>> from cgn_augment.types import Affine
        >>> Affine((127.5,) * 3, (127.5,) * 3).of_bytes()     # to 0 … 255, where bytes are already
        Affine(scale=(1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0))
    """

    scale: tuple[float, float, float]
    shift: tuple[float, float, float]

    def of_bytes(self) -> Affine:
        """Returns the same map for images stored as bytes, of which 0 is -1 and 255 is 1."""
        (red, green, blue), (r, g, b) = self
        scale = red * 2 / 255, green * 2 / 255, blue * 2 / 255
        return Affine(scale, (r - red, g - green, b - blue))


class Step(NamedTuple):
    """The step of a stream for which counterfactuals are drawn.

    Attributes:
        number: step number, counted over all epochs from 0.
        rank: rank of the process that takes it.
        world_size: number of processes that take it together.

    Examples:
        >>> from cgn_augment import Step
        >>> Step(7)
        Step(number=7, rank=0, world_size=1)
    """

    number: int = 0
    rank: int = 0
    world_size: int = 1


class RealBatch(NamedTuple):
    """A step's real images, as a source sees them.

    Attributes:
        images: (B, 3, H, W) float32, as the user's own pipeline made them.
        labels: (B,) int64 labels of the user.
        classes: (B,) int64 classes of the CGN for these labels; -1 for a label that has none in
            the class map.
        items: (B,) int64 dataset indices, on the CPU; None if the real data has no index (a
            loader, an iterable).
        batch: the whole batch from the user's pipeline, with whatever else it holds.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    items: Tensor | None = None
    batch: Any = None


class MixedBatch(NamedTuple):
    """A batch with the factors of each image (`output="namedtuple"`).

    Attributes:
        image: (B, 3, H, W) float32, in the range of the real images.
        label: (B,) int64, or (B, 3) with `label="all"`.
        is_counterfactual: (B,) bool.
        shape: (B,) int64 label of the shape. A real image has its own label for all three.
        texture: (B,) int64 label of the texture.
        background: (B,) int64 label of the background.
        real_index: (B,) int64 row of the real image whose shape is shown. A real image has its own
            row. -1 if the generator drew the shape or, with mix="replace", if that real image was
            replaced. With mix="separate", rows of the real batch.
    """

    image: Tensor
    label: Tensor
    is_counterfactual: Tensor
    shape: Tensor
    texture: Tensor
    background: Tensor
    real_index: Tensor


@runtime_checkable
class Masker(Protocol):
    """Finds the objects in images: a `UNetMasker`, a U2-Net, or your own function.

    If a masker has a `fingerprint`, a source uses it to identify the masker in a saved state.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the masks of images.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].

        Returns:
            (N, 1, H, W) float32 in [0, 1]; 1 is object.
        """


@runtime_checkable
class Mechanisms(Protocol):
    """A frozen CGN: three mechanisms that run separately (paper, section 2).

    Attributes:
        num_classes: number of classes of each mechanism.
        image_size: height and width of the images, in pixels.
        shared_noise: True if all three mechanisms share one noise vector (the paper's ImageNet
            CGN), False if each draws its own (its MNIST CGN).
        fingerprint: identifies the weights.
    """

    num_classes: int
    image_size: int
    shared_noise: bool

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def fingerprint(self) -> str:
        """A short text that identifies the weights."""

    def draw_noise(self, num: int, generator: Generator) -> Tensor:
        """Draws (num, Z) float32 noise on the CPU and moves it to the CGN's device.

        Args:
            num: number of noise vectors.
            generator: a CPU generator.
        """

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns masks (N, 1, H, W) float32 in [0, 1] for noise (N, Z) and classes (N,).

        Args:
            noise: (N, Z) float32.
            y: (N,) int64 classes.
        """

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns foregrounds (N, 3, H, W) float32 in [-1, 1].

        Args:
            noise: (N, Z) float32.
            y: (N,) int64 classes.
        """

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns backgrounds (N, 3, H, W) float32 in [-1, 1].

        Args:
            noise: (N, Z) float32.
            y: (N,) int64 classes.
        """

    def shuffle(self, images: Tensor, generator: Generator) -> Tensor:
        """Moves each texture (N, 3, H, W) to a random position, if the CGN does that.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].
            generator: a CPU generator.
        """


@runtime_checkable
class Source(Protocol):
    """Makes counterfactuals. Write your own with this one method.

    A source keeps no count. Given the same step and a generator in the same state, it draws the
    same images. A source whose contents change over the steps first brings them to the state for
    `step`.

    Optional attributes and methods, used if present:

    - `image_size`, `num_classes`: checked when a stream is made.
    - `restrict(class_map)`: returns a source that draws only the classes of the map.
    - `fingerprint`: goes into the saved state's fingerprint.
    - `needs_real = False`: the source never looks at `real` and uses no random numbers but those of
      `generator`. A thread may then draw from it, also before the real batch is read, with
      `real=None`.
    - `draws_apart = True`: the source looks at `real`, and uses no random numbers but those of
      `generator`. A thread may then draw from it while the loop trains on the batch before.
    - `needs_items = True`: the source gets `RealBatch.items` if it exists.
    - `device`: if `sample` has a further argument `out`, it may get memory (num, 3, H, W) float32
      on this device to write the images to.
    - if `sample` has an argument `affine` too, it may get an `Affine` to map the images by, which
      saves a pass over them. `out` may then be of another floating type or channels last.
    - `masks`: key or position of the masks in the batch. Counterfactuals get their masks there.

    Examples:
        >>> import torch
        >>> from cgn_augment import Counterfactuals, Step
        >>> class Brightening:
        ...     def sample(self, num, generator, step=Step(), real=None):
        ...         y = torch.randint(10, (3, num), generator=generator)
        ...         grey = min(step.number / 1000, 1.0)
        ...         return Counterfactuals(torch.full((num, 3, 32, 32), grey), *y)
        >>> made = Brightening().sample(4, torch.Generator(), Step(number=500))
        >>> len(made), made.images.max().item()
        (4, 0.5)
    """

    def sample(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> Counterfactuals:
        """Draws `num` counterfactuals.

        Args:
            num: number of images.
            generator: a CPU generator; the only randomness that may be used.
            step: the step they are for; the first one outside a stream.
            real: the step's real batch, if there is one.

        Returns:
            `num` counterfactuals whose labels are classes of the CGN.
        """
