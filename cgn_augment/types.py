"""The values that travel between the parts, and the protocols of the parts.

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
    """A dataclass of tensors whose rows belong together; some may be None."""

    def __post_init__(self) -> None:
        lengths = {name: len(part) for name, part in self._tensors().items()}
        if len(set(lengths.values())) > 1:
            raise ArgumentError(f"{type(self).__name__} needs equal lengths, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self._tensors().values())))

    def to(self, device: torch.device | str) -> Self:
        """Returns the same with each tensor on `device`."""
        tensors = self._tensors().items()
        return type(self)(**{name: part.to(device, non_blocking=True) for name, part in tensors})

    def _tensors(self) -> dict[str, Tensor]:
        return {name: part for name, part in vars(self).items() if part is not None}


@dataclass(frozen=True)
class Factors(_Rows):
    """What the three mechanisms drew.

    Attributes:
        mask: (N, 1, H, W) float32 in [0, 1]; 1 is object.
        foreground: (N, 3, H, W) float32 in [-1, 1]; the texture everywhere.
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
        shape: (N,) int64, class of the shape.
        texture: (N,) int64, class of the texture.
        background: (N,) int64, class of the background.
        real: (N,) int64, which image of the step's real batch the shape was seen in; -1 where the
            generator drew it. The label of such a shape is the user's own, whatever `shape` says.
            None where no image has its shape from the real batch.
        mask: (N, 1, H, W) float32 in [0, 1], where the objects are; None where nobody knows.

    Raises:
        ArgumentError: they differ in length.
    """

    images: Tensor
    shape: Tensor
    texture: Tensor
    background: Tensor
    real: Tensor | None = None
    mask: Tensor | None = None


class Step(NamedTuple):
    """The step of a stream that counterfactuals are drawn for.

    Attributes:
        number: counted over all epochs from 0.
        rank: the process that takes it.
        world_size: how many processes take it together.

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
        classes: (B,) int64 classes of the CGN that belong to the labels; -1 where the class map
            has none.
        items: (B,) int64 on the CPU, which items of the dataset they are; None where the real data
            has no index (a loader, an iterable).
        batch: the whole batch as the user's pipeline made it, for what else it holds.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    items: Tensor | None = None
    batch: Any = None


class MixedBatch(NamedTuple):
    """A batch that says of each image what it shows (`output="namedtuple"`).

    Attributes:
        image: (B, 3, H, W) float32, in the range of the real images.
        label: (B,) int64, or (B, 3) with `label="all"`.
        is_counterfactual: (B,) bool.
        shape: (B,) int64 label of the shape. A real image has its own label for all three.
        texture: (B,) int64 label of the texture.
        background: (B,) int64 label of the background.
        real_index: (B,) int64 row of the real image whose shape is shown: its own row for a real
            image; -1 where there is none, because the generator drew the shape or (with
            mix="replace") that image made room. Rows of the real batch with mix="separate".
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
    """Finds the objects in images: a `UNetMasker`, a U2-Net, or a function of yours.

    A source also looks at `fingerprint`, which identifies it in a saved state, where it has one.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Takes images (N, 3, H, W) float32 in [-1, 1] to masks (N, 1, H, W) float32 in [0, 1]."""


@runtime_checkable
class Mechanisms(Protocol):
    """A frozen CGN: three mechanisms that run alone (section 2 of the paper).

    Attributes:
        num_classes: classes of each mechanism.
        image_size: height and width of the images, in pixels.
        shared_noise: whether one noise vector goes to all three mechanisms (the paper's ImageNet
            CGN) or each draws its own (its MNIST CGN).
        fingerprint: identifies the weights.
    """

    num_classes: int
    image_size: int
    shared_noise: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def fingerprint(self) -> str:
        """A short text that identifies the weights."""

    def draw_noise(self, num: int, generator: Generator) -> Tensor:
        """Draws (num, Z) float32 noise on the CPU and returns it on the CGN's device."""

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns masks (N, 1, H, W) float32 in [0, 1] for noise (N, Z) and classes (N,)."""

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns foregrounds (N, 3, H, W) float32 in [-1, 1]."""

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns backgrounds (N, 3, H, W) float32 in [-1, 1]."""

    def shuffle(self, images: Tensor, generator: Generator) -> Tensor:
        """Moves each texture to a random position, where the CGN asks for it."""


@runtime_checkable
class Source(Protocol):
    """Where counterfactuals come from. Write your own with this one method.

    It keeps no count of its own: what it draws for one step it draws again for that step, given a
    generator in the same state. A source whose contents change over the steps brings them to `step`
    first.

    More methods and attributes are used where a source has them: `image_size` and
    `num_classes` (checked when a stream is made), `restrict(class_map)` (a source that draws only
    the classes of the map) and `fingerprint` (goes into the saved state's fingerprint).
    One with `needs_real = False` never looks at `real`, and no random numbers but `generator`'s; it
    may be drawn from ahead of the real batch, in a thread and with `real=None`.
    One with `needs_items = True` gets `RealBatch.items` where there is one. A `sample` with a
    further argument `out` may be given memory (num, 3, H, W) float32 on the source's `device`, to
    write the images to. `masks`, a key or position in the batch, says where masks lie that
    counterfactuals get theirs at.

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
            num: how many images.
            generator: a CPU generator; the only randomness that may be used.
            step: for which step they are; the first one where there is no stream.
            real: the step's real batch, where there is one.

        Returns:
            `num` counterfactuals whose labels are classes of the CGN.
        """
