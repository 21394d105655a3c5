"""Runs the user's augmentations so that images keep their labels and each gets its own draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from cgn_augment.errors import ArgumentError, ArgumentTypeError

Transform = Callable[[Tensor], Tensor]

_MIXING = {
    ("kornia", "MixAugmentationBaseV2"),
    ("torchvision", "_BaseMixUpCutMix"),
    ("timm", "Mixup"),
}
"""Package and base class of augmentations that blend images with one another."""


class Augmentation:
    """A module or callable that augments images (N, 3, H, W), checked and ready to run.

    torchvision's transforms draw once for a whole batch. If the module contains one, each image
    goes through it alone.

    Args:
        name: name of the argument, for errors.
        module: maps (N, 3, H, W) float32 to the same shape; each image keeps its label.

    Raises:
        ArgumentTypeError: it cannot be called, or is a class.
        ArgumentError: it blends images with one another, needs labels, or is made for PIL images
            or images in [0, 1].

    Examples:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from cgn_augment.stream.augmenting import Augmentation
        >>> augment = Augmentation("augment", v2.RandomHorizontalFlip())
        >>> augment.by_image, augment(torch.rand(4, 3, 8, 8)).shape
        (True, torch.Size([4, 3, 8, 8]))
    """

    def __init__(self, name: str, module: Any) -> None:
        if isinstance(module, type):
            raise ArgumentTypeError(
                f"{name} is the class {module.__name__}: pass one made of it, {module.__name__}(…)"
            )
        if not callable(module):
            raise ArgumentTypeError(
                f"{name} must be a module of kornia or torchvision (several in a Sequential) or "
                f"another function of images, got {module!r}"
            )
        self.name, self.module = name, module
        parts = list(_parts(module))
        mixing = [type(part).__name__ for part in parts if _blends(part)]
        if mixing:
            raise ArgumentError(
                f"{name} has {mixing[0]}, which blends images with one another, and the labels "
                f"would not follow: apply it to the stream's batches, behind the stream, and leave "
                f"it out of {name}"
            )
        if not _takes_images_alone(module):
            raise ArgumentError(
                f"{name} ({type(module).__name__}) needs more than images, such as labels, and "
                f"gets images alone: apply it to the stream's batches, behind the stream"
            )
        steps = _flatten(module)
        if wrong := _of_a_dataset(steps):
            raise ArgumentError(
                f"{name} has {wrong}, as the transform of a dataset, but gets counterfactuals, "
                "tensors that are drawn in [-1, 1]: pass transform=match_real(mean, std, size=…), "
                "which brings them to your images, and random augmentations alone as its augment"
            )
        self._steps = [(step, _draws_once(step)) for step in steps]

    @property
    def by_image(self) -> bool:
        """Whether images go through it, or through part of it, one by one."""
        return any(by_image for _, by_image in self._steps)

    def __call__(self, images: Tensor) -> Tensor:
        """Augments images (N, 3, H, W).

        Raises:
            ArgumentError: the number of images changes, or the images have several sizes.
            ArgumentTypeError: the module returns something other than a tensor.
        """
        for step, by_image in self._steps:
            if by_image:
                images = self._join([self._check(step(image[None]), 1) for image in images], images)
            else:
                images = self._check(step(images), len(images))
        return images

    def with_masks(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Augments images (N, 3, H, W), and moves masks (N, 1, H, W) in [0, 1] with them.

        Raises:
            ArgumentError: it is unknown how this module moves a mask.
        """
        for step, _ in self._steps:
            if _is_of("torchvision.transforms.v2", step):
                from torchvision.tv_tensors import Mask  # slow to import, and not always needed

                pairs = zip(images, masks, strict=True)
                made = [step(image[None], Mask(mask[None])) for image, mask in pairs]
                images = self._join([self._check(image, 1) for image, _ in made], images)
                masks = self._join([mask.as_subclass(Tensor) for _, mask in made], masks)
            elif _is_of("kornia.augmentation", step):
                from kornia.augmentation import AugmentationSequential  # likewise

                both = step
                if not isinstance(step, AugmentationSequential):
                    both = AugmentationSequential(step)
                images, masks = both(images, masks, data_keys=["input", "mask"])
            else:
                raise ArgumentError(
                    f"{self.name} has {_name(step)}, and nobody knows how it moves the mask of a "
                    "counterfactual: use modules of kornia or of torchvision.transforms.v2, or "
                    "give the column a constant with fill"
                )
        return images, masks

    def _join(self, single: list[Tensor], given: Tensor) -> Tensor:
        """Returns the batch of images that were augmented one by one."""
        sizes = {tuple(image.shape[1:]) for image in single}
        if len(sizes) > 1:
            raise ArgumentError(
                f"{self.name} gives images of several sizes ({sorted(sizes)[:3]}): end it with a "
                "Resize or a crop to one size"
            )
        return torch.cat(single) if single else given

    def _check(self, made: Any, num: int) -> Tensor:
        name = f"{self.name} ({type(self.module).__name__})"
        if isinstance(made, (tuple, list, Mapping)):
            raise ArgumentTypeError(
                f"{name} returned a {type(made).__name__} where images alone were expected: apply "
                "what changes labels to the stream's batches, behind the stream"
            )
        if not isinstance(made, Tensor):
            raise ArgumentTypeError(
                f"{name} returned a {type(made).__name__}: it takes a tensor of images "
                "(N, 3, H, W) and must return one"
            )
        if made.dim() != 4 or len(made) != num:
            raise ArgumentError(
                f"{name} made {tuple(made.shape)} of {num} images: it must return ({num}, 3, H, W)"
            )
        return made


def _name(module: Any) -> str:
    return getattr(module, "__name__", type(module).__name__)


def _flatten(module: Any) -> list[Any]:
    """Returns the modules of a sequence, or the module itself."""
    if type(module) is nn.Sequential:
        return [step for part in module for step in _flatten(part)]
    if type(module).__name__ == "Compose" and _is_of("torchvision.transforms", module):
        return [step for part in module.transforms for step in _flatten(part)]
    return [module]


def _of_a_dataset(steps: list[Any]) -> str:
    """Returns the name of a step that takes PIL images, or images in [0, 1]; empty if none does."""
    kept = True  # the scale of what a source draws
    for step in steps:
        ours = _is_of("torchvision.transforms", step)
        if ours and _name(step) in ("ToTensor", "PILToTensor"):
            return _name(step)
        if kept and ours and _name(step) == "Normalize" and min(step.mean) > 0:
            return "Normalize"
        kept = kept and ours and _name(step) not in ("Lambda", "Normalize")
    return ""


def _draws_once(module: Any) -> bool:
    """Whether any part of it draws once for a whole batch."""
    return any(_is_of("torchvision.transforms", part) for part in _parts(module))


def _parts(module: Any) -> Iterator[Any]:
    """Yields a module and all its parts, including torchvision's lists of transforms."""
    waiting, seen = [module], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, nn.Module):
            waiting += part.children()
        held = getattr(part, "transforms", None)
        if isinstance(held, (list, tuple)):
            waiting += held


def _is_of(package: str, part: Any) -> bool:
    return any(f"{kind.__module__}.".startswith(f"{package}.") for kind in type(part).__mro__)


def _blends(part: Any) -> bool:
    kinds = {(kind.__module__.split(".")[0], kind.__name__) for kind in type(part).__mro__}
    # A jigsaw moves the pieces of an image within that image.
    return bool(kinds & _MIXING) and ("kornia", "RandomJigsaw") not in kinds


def _takes_images_alone(module: Any) -> bool:
    if len(getattr(module, "data_keys", None) or [None]) > 1:  # kornia's images with labels
        return False
    function = module.forward if isinstance(module, nn.Module) else module
    try:
        signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a built-in function has no signature
        return True
    return True
