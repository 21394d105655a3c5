"""Completes the visible part of a texture to a whole image, from that part alone.

The missing area is copied from the same image, one offset after another, each time the one at which
the image fits best around the hole. Textures repeat at few offsets (He and Sun, Statistics of Patch
Offsets for Image Completion, ECCV 2012), so lines and contrasts stay sharp that an average over
many images would blur.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cgn_augment.errors import ArgumentError
from cgn_augment.functional import move_images
from cgn_augment.parts.offsets import best_offsets

SEARCHED, TOO_LARGE = 25, 0.05
"""For foregrounds: images examined per image wanted, and the share of the largest objects among
them that is skipped, since such a mask may hold more than the object."""


@torch.no_grad()
def complete(
    images: Tensor, known: Tensor, *, rounds: int = 40, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """Fills the unknown area of each image with copies of its known area.

    Args:
        images: (N, C, H, W) float32.
        known: (N, 1, H, W) float32, 1 where the texture is visible and 0 elsewhere.
        rounds: most offsets to copy from.
        chunk: images at a time; memory grows with it.

    Returns:
        (N, C, H, W) images, changed only where they were unknown, and (N, 1, H, W) what is known
        now: all of it, unless the rounds were too few or no offset was left to copy from. The rest
        is 0.

    Examples:
        >>> import torch
        >>> from cgn_augment.parts.textures import complete
        >>> stripes = torch.arange(32).div(4, rounding_mode="floor").remainder(2).float()
        >>> images = stripes.expand(1, 1, 32, 32)
        >>> known = torch.ones(1, 1, 32, 32)
        >>> known[:, :, 10:20, 10:20] = 0
        >>> again, _ = complete(images, known)
        >>> torch.equal(again, images)
        True
    """
    pairs = zip(torch.split(images, chunk), torch.split(known, chunk), strict=True)
    whole, seen = zip(*(_complete(*pair, rounds) for pair in pairs), strict=True)
    return torch.cat(whole), torch.cat(seen)


def _complete(images: Tensor, known: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    images, known = images * known, known.clone()
    for _ in range(rounds):
        open_ = (known == 0).flatten(1).any(dim=1).nonzero().flatten()
        if len(open_) == 0:
            break
        image, seen = images[open_], known[open_]
        offsets, found = best_offsets(image, seen)
        if not found.any():
            break
        open_, image, seen, offsets = open_[found], image[found], seen[found], offsets[found]
        filled = (1 - seen) * move_images(seen, offsets)
        images[open_] = image + filled * move_images(image, offsets)
        known[open_] = seen + filled
    return images, known


class ClassPool:
    """Images to draw by class.

    Args:
        images: (N, C, H, W) float32.
        labels: (N,) int64.

    Examples:
        >>> import torch
        >>> from cgn_augment.parts.textures import ClassPool
        >>> pool = ClassPool(torch.arange(3.0).view(3, 1, 1, 1), torch.tensor([1, 0, 1]))
        >>> pool.draw(torch.tensor([0]), torch.Generator()).item()
        1.0
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        order = labels.argsort(stable=True)
        self.images = images[order]
        self.counts = labels.cpu().bincount()
        self.known = set(labels.tolist())
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a random image of each class, (B, C, H, W) on the device of `y`."""
        share = torch.rand(len(y), generator=generator, dtype=torch.float64)
        return self.pick(y.cpu(), share).to(y.device)

    def pick(self, y: Tensor, share: Tensor) -> Tensor:
        """Returns images (B, C, H, W) for classes (B,) on the CPU, by their place in the class.

        Places are shares (B,) float64 in [0, 1); 0 is the first image of the class.

        Raises:
            ArgumentError: a class has no image.
        """
        if not set(y.tolist()) <= self.known:
            raise ArgumentError("there is no image of one of the classes: use more images")
        index = self.starts[y] + (share * self.counts[y]).long()
        return self.images[index.to(self.images.device)]


def whole_textures(
    images: Tensor, labels: Tensor, found: Tensor, num: int
) -> tuple[ClassPool, ClassPool]:
    """Makes whole foregrounds and backgrounds from real images.

    If no image of a class can be completed, as after a few steps of training, it warns and fills
    the missing area with the mean colour of the known one.

    Args:
        images: (N, 3, 32, 32) float32 in [-1, 1].
        labels: (N,) int64.
        found: (N, 1, 32, 32) bool masks of the objects.
        num: number of each per class, or fewer if fewer can be completed.
    """
    classes: Tensor = torch.unique(labels)
    pools = []
    for name in ("foreground", "background"):
        whole: list[Tensor] = []
        incomplete: list[int] = []
        for y in tqdm(classes.tolist(), f"{name}s", unit="class", delay=2, disable=None):
            chosen = (labels == y).nonzero().flatten()
            # Twice as many as wanted, since some cannot be completed.
            chosen = (_large(chosen, found, num) if name == "foreground" else chosen)[: 2 * num]
            seen = found[chosen].float()
            if name == "background":  # stay a pixel away from the object: a mask may be too small
                seen = 1 - F.max_pool2d(seen, 3, stride=1, padding=1)
            completed, now_known = complete(images[chosen], seen)
            ready = now_known.flatten(1).all(dim=1)
            if ready.any():
                completed = completed[ready]
            else:
                of_known = now_known.sum(dim=(2, 3), keepdim=True).clamp(min=1)
                mean = (completed * now_known).sum(dim=(2, 3), keepdim=True) / of_known
                completed = completed * now_known + mean * (1 - now_known)
                incomplete.append(y)
            whole.append(completed[:num])
        if incomplete:
            warnings.warn(
                f"no {name} of the classes {incomplete} could be completed from the masks that "
                "were found, so the mean colour fills them: look at the sheets, and train the "
                "stages before this one longer, or with another seed",
                stacklevel=2,
            )
        counts = torch.tensor([len(each) for each in whole], device=classes.device)
        pools.append(ClassPool(torch.cat(whole), classes.repeat_interleave(counts)))
    return pools[0], pools[1]


def _large(places: Tensor, found: Tensor, num: int) -> Tensor:
    """Returns places of more images than wanted, chosen by the size of their objects."""
    places = places[: SEARCHED * num]
    order = found[places].flatten(1).sum(dim=1).argsort(descending=True, stable=True)
    return places[order[round(TOO_LARGE * len(order)) :]]
