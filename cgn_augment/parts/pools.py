"""Pools that `Parts` picks from by class: images in memory, or a set read part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from cgn_augment.errors import ArgumentError
from cgn_augment.parts.fitting import fit_background, fit_object
from cgn_augment.parts.reader import PartReader
from cgn_augment.parts.textures import ClassPool
from cgn_augment.parts.threads import Threads

Storage = Literal["float32", "uint8"]
_MEMBER_OF = {"shape": "object", "texture": "foreground", "background": "background"}
_LACKING = {
    "object": "there is no object of class {} in these parts",
    "background": "there is no background of class {} in these parts",
    "foreground": (
        "there is no foreground of class {} in these parts: leave the texture to the object with "
        "Interventions(texture='shape'), or make the parts with --textures true"
    ),
}


class Pools(Protocol):
    """Picks parts by class and noise.

    Attributes:
        storage: "float32" for colours in [-1, 1] and masks in [0, 1], "uint8" for both in 0 to 255.
        noise_dim: how many numbers choose a part.
    """

    storage: Storage
    noise_dim: int

    def pick(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        """Returns (N, 1 or 3, S, S) for noise (N, noise_dim) in [0, 1) and classes (N,), on CPU."""

    def pick_objects(self, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `pick` returns for shapes, and the foregrounds of the same objects."""


class ImagePools:
    """Pools of images in memory.

    Args:
        pools: pool of each factor.
        images: (N, 3, S, S) float in [-1, 1] in which the masks were found; they are not copied.
        places: (M,) int64: for each mask in the pool of shapes, the image it comes from.
    """

    storage: Storage = "float32"
    noise_dim = 1

    def __init__(self, pools: Mapping[str, ClassPool], images: Tensor, places: ClassPool) -> None:
        self._pools, self._images, self._places = pools, images, places

    def pick(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        """Returns parts; see `Pools`."""
        return self._pools[factor].pick(y, noise[:, 0])

    def pick_objects(self, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns masks and the images in which they were found; see `Pools`."""
        places = self._places.pick(y, noise[:, 0])
        return self.pick("shape", noise, y), self._images[places.to(self._images.device)]


class SetPools:
    """Pools of a set of parts; threads read and decode what is picked.

    Args:
        reader: the set.
        size: height and width of the results, in pixels.
        labels: labels of the set's classes, by name.
        threads: threads that read.
    """

    storage: Storage = "uint8"
    noise_dim = 2

    def __init__(
        self, reader: PartReader, size: int, labels: Mapping[str, int], threads: Threads
    ) -> None:
        self._reader, self._size, self._threads = reader, size, threads
        self._numbers: dict[str, dict[int, Sequence[int]]] = {}
        for member in _MEMBER_OF.values():
            of_label: dict[int, list[int]] = {}
            for name, y in labels.items():
                of_label.setdefault(y, []).extend(reader.of_class(name, member).tolist())
            self._numbers[member] = {y: found for y, found in of_label.items() if found}

    def pick(self, factor: str, noise: Tensor, y: Tensor) -> Tensor:
        """Returns parts; see `Pools`.

        Raises:
            ArgumentError: a class has no such part.
        """
        if factor == "shape":
            return self.pick_objects(noise, y)[0]
        return self._read(_MEMBER_OF[factor], noise, y)

    def pick_objects(self, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns masks and colours of objects, each decoded once; see `Pools`."""
        cuts = self._read("object", noise, y)
        return cuts[:, 3:], cuts[:, :3]

    def require(self, factor: str, classes: Sequence[int]) -> None:
        """Raises `ArgumentError` if one of the classes has no such part."""
        member = _MEMBER_OF[factor]
        for y in classes:
            if y not in self._numbers[member]:
                raise ArgumentError(_LACKING[member].format(y))

    def _read(self, member: str, noise: Tensor, y: Tensor) -> Tensor:
        """Reads the picked pictures; the second number of the noise places their crops."""
        wanted = y.tolist()
        self.require({name: factor for factor, name in _MEMBER_OF.items()}[member], wanted)
        found = [self._numbers[member][label] for label in wanted]
        pairs = zip(found, noise[:, 0].tolist(), strict=True)
        numbers = [of_label[int(share * len(of_label))] for of_label, share in pairs]

        def read(number: int, place: float) -> Tensor:
            asked = {name: name == member for name in _MEMBER_OF.values()}
            part = self._reader.read(number, **asked)
            picture: Tensor = getattr(part, member)
            if member == "object":
                return fit_object(picture, part.box, part.size, self._size)
            return fit_background(picture, place, self._size)

        empty = torch.empty(0, 4 if member == "object" else 3, self._size, self._size)
        pictures = self._threads.map(read, numbers, noise[:, 1].tolist())
        return torch.stack(pictures) if pictures else empty.byte()
