"""Three mechanisms without a network: they give what a masker has found in real images."""

from __future__ import annotations

import torch
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import check_classes
from cgn_augment.generators.fingerprint import hash_tensors
from cgn_augment.masks.finding import find_masks, require_masker, require_masks
from cgn_augment.masks.trust import GateCounter, MaskGate
from cgn_augment.parts.textures import ClassPool, whole_textures
from cgn_augment.types import FACTORS, Masker


class RealMechanisms:
    """Masks, foregrounds and backgrounds of real images, by class, where a CGN is expected.

    No source draws better textures than the images themselves have; what they cannot give is one
    that nobody has seen. Foregrounds and backgrounds of a class are completed from what is seen of
    them (He and Sun, Statistics of Patch Offsets for Image Completion, ECCV 2012), which takes some
    milliseconds each at 32 pixels, once.

    Args:
        images: (N, 3, H, W) float32 in [-1, 1], such as the training images; H = W.
        labels: (N,) int64 classes; each of 0 to the largest has an image.
        masker: finds the objects: a `Masker` such as `load_masker(name)`; or the masks themselves,
            (N, 1, H, W) in [0, 1] or bool, where the dataset has them.
        num_per_class: foregrounds and backgrounds of each class; fewer where there are fewer images
            or fewer that can be completed.
        gate: which images are used, by their masks; None uses all.
        chunk: images that the masker sees at once.

    Attributes:
        num_classes: classes of each mechanism.
        image_size: height and width, in pixels.
        shared_noise: False, each mechanism draws its own.
        counts: images by the verdict of the gate; without one all are usable.
        device: where the images are.
        fingerprint: twelve hexadecimal digits of a hash of all that can be drawn.

    Raises:
        ArgumentError: images and labels that do not fit, or a class none of whose images has a
            usable mask.
        ArgumentTypeError: images or labels of another type, or a masker that cannot be called.
        DataError: masks of another shape or range.

    Example:
        >>> import torch
        >>> from cgn_augment import BankSource, RealMechanisms
        >>> def find_bright(images):
        ...     return (images.mean(dim=1, keepdim=True) > 0).float()
        >>> images = torch.full((4, 3, 32, 32), -0.5)
        >>> images[:, :, 8:20, 8:20] = 0.7
        >>> parts = RealMechanisms(images, torch.tensor([0, 0, 1, 1]), find_bright)
        >>> source = BankSource(parts, size=20)
        >>> source.sample(3, torch.Generator().manual_seed(0)).images.shape
        torch.Size([3, 3, 32, 32])
    """

    shared_noise = False

    @torch.no_grad()
    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        masker: Masker | Tensor,
        num_per_class: int = 200,
        *,
        gate: MaskGate | None = MaskGate(),
        chunk: int = 256,
    ) -> None:
        _require_images(images, labels)
        require_count("num_per_class", num_per_class)
        require_count("chunk", chunk)
        counter = GateCounter(gate)
        self.num_classes, self.image_size = int(labels.max()) + 1, images.shape[-1]
        if isinstance(masker, Tensor):
            masks = masker.to(images.device)
        else:
            masks = find_masks(require_masker(masker), images, chunk)
        masks = require_masks(masks, (len(images), 1, *images.shape[-2:]))
        usable = counter.usable(masks)
        self.counts = counter.counts
        labels = labels.cpu()[usable]
        missing = sorted(set(range(self.num_classes)) - set(labels.tolist()))
        if missing:
            raise ArgumentError(
                f"no image of the classes {missing} has a usable mask ({self.counts}): give more "
                "images, a masker of these images, or another gate=MaskGate(…)"
            )
        at = usable.to(images.device)
        images, found_masks = images[at], masks[at] > 0.5
        textures = whole_textures(images, labels.to(images.device), found_masks, num_per_class)
        pools = ClassPool(found_masks, labels), *textures
        self._pools = dict(zip(FACTORS, pools, strict=True))
        self.device = images.device
        parts = {f"{name} images": pool.images for name, pool in self._pools.items()}
        parts |= {f"{name} counts": pool.counts for name, pool in self._pools.items()}
        self.fingerprint = hash_tensors(parts)

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Draws (num, 1) float32 in [0, 1): which image of its class each one is."""
        return torch.rand(num, 1, generator=generator).to(self.device)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns the masks that were found, (N, 1, H, W) float32, 0 or 1."""
        return self._pick("shape", noise, y).float()

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns completed foregrounds (N, 3, H, W) float32 in [-1, 1]."""
        return self._pick("texture", noise, y)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns completed backgrounds (N, 3, H, W) float32 in [-1, 1]."""
        return self._pick("background", noise, y)

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Leaves textures where they are: they are whole, and a move would leave a seam."""
        return images

    def _pick(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        check_classes(y, len(noise), self.num_classes, "noise")
        return self._pools[factor].pick(y.cpu().long(), noise[:, 0].cpu().double())


def _require_images(images: Tensor, labels: Tensor) -> None:
    types = [getattr(given, "dtype", type(given).__name__) for given in (images, labels)]
    if not (isinstance(images, Tensor) and images.is_floating_point() and types[1] is torch.int64):
        raise ArgumentTypeError(
            "images must be a floating point tensor (N, 3, H, W) in [-1, 1] and labels an int64 "
            f"tensor (N,), got {types[0]} and {types[1]}"
        )
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ArgumentError(
            f"images must have the shape (N, 3, H, W) with H = W, got {tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1] or len(labels) == 0 or int(labels.min()) < 0:
        raise ArgumentError(
            f"there must be a label of 0 or more for each of the {len(images)} images, got "
            f"{tuple(labels.shape)}"
        )
    least, most = float(images.min()), float(images.max())
    if not -1.001 <= least <= most <= 1.001:
        raise ArgumentError(
            f"images must be in [-1, 1], and span [{least:.3g}, {most:.3g}]: scale them first"
        )
