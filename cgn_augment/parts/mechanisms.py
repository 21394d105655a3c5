"""Mechanisms without a network: they return what was found in real images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import check_classes
from cgn_augment.generators.fingerprint import hash_tensors
from cgn_augment.interventions import Interventions
from cgn_augment.masks.finding import find_masks, require_masker, require_masks
from cgn_augment.masks.trust import GateCounter, MaskGate
from cgn_augment.parts.pools import ImagePools, Pools, SetPools, Storage
from cgn_augment.parts.textures import ClassPool, whole_textures
from cgn_augment.types import FACTORS, Masker


class Parts:
    """Masks, foregrounds and backgrounds of real images, by class; usable instead of a CGN.

    No CGN draws better textures than the images themselves have, but parts can only show what was
    seen. `load_parts` opens a set on disk; `Parts.from_images` takes apart images that fit into
    memory.

    Args:
        pools: pick parts by class.
        image_size: height and width, in pixels.
        labels: classes that have parts.
        counts: number of images by the verdict on their masks.
        fingerprint: identifies everything that can be drawn.
        device: device for the images.
        interventions: default for how classes are drawn.
        names: names of the classes, by label.

    Attributes:
        num_classes: one more than the largest of `labels`.
        shared_noise: False; each mechanism draws its own noise.
        storage: "uint8" if parts are read from pictures, "float32" if they are tensors.

    Examples:
        >>> import torch
        >>> from cgn_augment import BankSource, Parts
        >>> def find_bright(images):
        ...     return (images.mean(dim=1, keepdim=True) > 0).float()
        >>> images = torch.full((4, 3, 32, 32), -0.5)
        >>> images[:, :, 8:20, 8:20] = 0.7
        >>> parts = Parts.from_images(images, torch.tensor([0, 0, 1, 1]), find_bright)
        >>> source = BankSource(parts, size=20)
        >>> source.sample(3, torch.Generator().manual_seed(0)).images.shape
        torch.Size([3, 3, 32, 32])
    """

    shared_noise = False

    def __init__(
        self,
        pools: Pools,
        *,
        image_size: int,
        labels: Sequence[int],
        counts: Mapping[str, int],
        fingerprint: str,
        device: torch.device,
        interventions: Interventions | None = None,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self._pools, self._as_bytes = pools, False
        self.image_size, self.labels = image_size, tuple(sorted(labels))
        self.num_classes = self.labels[-1] + 1
        self.counts, self.fingerprint, self.device = dict(counts), fingerprint, device
        self.interventions = interventions or Interventions()
        self.names = dict(names or {})

    @classmethod
    @torch.no_grad()
    def from_images(
        cls,
        images: Tensor,
        labels: Tensor,
        masks: Masker | Tensor,
        num_per_class: int = 200,
        *,
        gate: MaskGate | None = MaskGate(),
        chunk: int = 256,
    ) -> Parts:
        """Takes images in memory apart.

        Foregrounds and backgrounds of a class are completed from their visible part (He and Sun,
        Statistics of Patch Offsets for Image Completion, ECCV 2012). This takes some milliseconds
        per image of 32 pixels, once.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1], such as the training images; H = W.
            labels: (N,) int64 classes, any numbers of 0 or more.
            masks: finds the objects: a `Masker` such as `load_masker(name)`; or the masks, (N, 1,
                H, W) in [0, 1] or bool, if the dataset has them.
            num_per_class: most foregrounds and backgrounds per class; fewer if fewer images can be
                completed.
            gate: which images are used, by their masks; None uses all.
            chunk: images that the masker gets at once.

        Raises:
            ArgumentError: images and labels do not fit, images are in [0, 1], or a class has no
                image with a usable mask.
            ArgumentTypeError: images or labels have the wrong type, or the masker cannot be called.
            DataError: masks have a wrong shape or range.
        """
        _require_images(images, labels)
        require_count("num_per_class", num_per_class)
        require_count("chunk", chunk)
        counter = GateCounter(gate)
        if isinstance(masks, Tensor):
            found = masks.to(images.device)
        else:
            found = find_masks(require_masker(masks), images, chunk, progress=True)
        found = require_masks(found, (len(images), 1, *images.shape[-2:]))
        usable = counter.usable(found)
        wanted, labels = set(labels.tolist()), labels.cpu()[usable]
        missing = sorted(wanted - set(labels.tolist()))
        if missing:
            raise ArgumentError(
                f"no image of the classes {missing} has a usable mask ({counter.counts}): give "
                "more images, a masker of these images, or another gate=MaskGate(…)"
            )
        at = usable.to(images.device)
        found = found[at] > 0.5
        textures = whole_textures(images[at], labels.to(images.device), found, num_per_class)
        pools = dict(zip(FACTORS, (ClassPool(found, labels), *textures), strict=True))
        tensors = {f"{name} images": pool.images for name, pool in pools.items()}
        tensors |= {f"{name} counts": pool.counts for name, pool in pools.items()}
        return cls(
            ImagePools(pools, images, ClassPool(usable.nonzero().flatten(), labels)),
            image_size=images.shape[-1],
            labels=sorted(wanted),
            counts=counter.counts,
            fingerprint=hash_tensors(tensors),
            device=images.device,
        )

    @property
    def storage(self) -> Storage:
        """How the parts are kept."""
        return self._pools.storage

    @property
    def as_bytes(self) -> Parts | None:
        """The same parts with mechanisms that return uint8, or None if parts are not bytes.

        Masks are then 0 to 255. Colours are too: 255 stands for 1 and 0 for -1.
        """
        if self.storage != "uint8":
            return None
        same = copy.copy(self)
        same._as_bytes = True
        return same

    def to(self, device: torch.device | str) -> Parts:
        """Returns the same parts, whose images go to another device."""
        same = copy.copy(self)
        same.device = torch.device(device)
        return same

    def check(self, interventions: Interventions) -> None:
        """Raises `ArgumentError` if parts that would be drawn do not exist.

        Args:
            interventions: how classes will be drawn.
        """
        if isinstance(self._pools, SetPools):
            for factor in FACTORS:
                if factor != "texture" or not interventions.is_tied:
                    self._pools.require(factor, interventions.classes(factor, self.labels))

    def draw_noise(self, num: int, generator: torch.Generator) -> Tensor:
        """Draws (num, 1 or 2) float32 in [0, 1): which part of its class to take.

        The second number gives the crop of a picture that is not square.

        Args:
            num: number of parts.
            generator: a CPU generator.
        """
        shape = num, self._pools.noise_dim
        return torch.rand(shape, generator=generator, dtype=torch.float32).to(self.device)

    def shape(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns masks as found, (N, 1, H, W) float32 in [0, 1].

        Args:
            noise: as from `draw_noise`.
            y: (N,) int64 classes.
        """
        return self._pick("shape", noise, y)

    def texture(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns whole foregrounds (N, 3, H, W) float32 in [-1, 1].

        Args:
            noise: as from `draw_noise`.
            y: (N,) int64 classes.
        """
        return self._pick("texture", noise, y)

    def background(self, noise: Tensor, y: Tensor) -> Tensor:
        """Returns whole backgrounds (N, 3, H, W) float32 in [-1, 1].

        Args:
            noise: as from `draw_noise`.
            y: (N,) int64 classes.
        """
        return self._pick("background", noise, y)

    def objects(self, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the masks of `shape`, and the colours of the same objects.

        Args:
            noise: as from `draw_noise`.
            y: (N,) int64 classes.

        Returns:
            (N, 1, H, W) float32 in [0, 1] and (N, 3, H, W) float32 in [-1, 1]; colours are
            meaningful only inside the mask.
        """
        noise, y = self._checked(noise, y)
        masks, colours = self._pools.pick_objects(noise, y)
        return self._finish(masks, 0.0), self._finish(colours, -1.0)

    def shuffle(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Returns textures unmoved: they are whole, and a move would leave a seam.

        Args:
            images: (N, 3, H, W) float32 in [-1, 1].
            generator: not used.
        """
        return images

    def _checked(self, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        check_classes(y, len(noise), self.num_classes, "noise")
        return noise.cpu().double(), y.cpu().long()

    def _pick(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        noise, y = self._checked(noise, y)
        return self._finish(self._pools.pick(factor, noise, y), 0.0 if factor == "shape" else -1.0)

    def _finish(self, found: Tensor, low: float) -> Tensor:
        """Moves parts to the device, and turns bytes into values from `low` to 1."""
        found = found.to(self.device, non_blocking=True)
        if self._as_bytes:
            return found
        if found.dtype is torch.uint8:
            return found.float().mul_((1 - low) / 255).add_(low)
        return found.float()


def _require_images(images: Tensor, labels: Tensor) -> None:
    types = [getattr(given, "dtype", type(given).__name__) for given in (images, labels)]
    if not (isinstance(images, Tensor) and images.is_floating_point() and types[1] is torch.int64):
        raise ArgumentTypeError(
            "images must be a floating point tensor (N, 3, H, W) in [-1, 1] and labels an int64 "
            f"tensor (N,), got {types[0]} and {types[1]}"
        )
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ArgumentError(
            f"images must have the shape (N, 3, H, W) with H = W, got {tuple(images.shape)}: crop "
            "them, or write them as parts with cgn-augment parts, which takes any size"
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
    if least >= 0:
        raise ArgumentError(
            f"images must be in [-1, 1], and span [{least:.3g}, {most:.3g}], as images in [0, 1] "
            "do: pass images * 2 - 1"
        )
