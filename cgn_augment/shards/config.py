"""The content of a set of shards, and which file holds which image: pure functions of the settings.

Classes and noise of image i are a function of (seed, i) alone. The network always processes whole
blocks of 64 images (`block_size`) with neighbouring indices, since its last digits depend on how
many images it processes at once. So the bytes are the same whatever the ranks, shards and
interruptions. Another block size draws the same images, apart from a grey level in a pixel here and
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cgn_augment.checks import require_choice, require_choices, require_counts
from cgn_augment.errors import ArgumentError, ArgumentTypeError
from cgn_augment.functional import Purpose, step_seed
from cgn_augment.generators.drawing import known_classes
from cgn_augment.interventions import Interventions
from cgn_augment.types import FACTORS, Mechanisms

ImageFormat = Literal["png", "jpg", "webp", "npy"]
Member = Literal["mask", "foreground", "background"]

Label = Literal["shape", "texture", "background"]

MEMBERS = get_args(Member)

MAX_SHARDS = 10**6
"""Most shards in a set: the number in a shard's name has six digits."""

_MAX_BLOCK = 2**16
"""More images than any device takes at once."""

_PLAIN = ("num", "seed", "format", "quality", "label", "members", "shard_size", "block_size")


@dataclass(frozen=True)
class ShardConfig:
    """Settings of a set of shards. The same settings and CGN give the same bytes.

    Args:
        num: number of images.
        seed: seed of classes and noise; image i is a function of (seed, i).
        format: image format: "png" and "npy" are lossless ("npy" keeps (3, H, W) float32 in [-1,
            1], exactly as drawn), "jpg" and "webp" are smaller.
        quality: quality of jpg and webp, 1 to 100.
        label: the factor whose class is the `cls` of a sample.
        members: what to keep beside each image: "mask", "foreground", "background".
        shard_size: images per shard; the last may have fewer.
        block_size: images that the network processes together. Another size draws the same images
            apart from the last digits.
        interventions: how classes are drawn; uniformly by default.

    Raises:
        ArgumentError: a value cannot be used; the message names it.
        ArgumentTypeError: a value has the wrong type.

    Examples:
        >>> from cgn_augment.shards import ShardConfig
        >>> ShardConfig(num=25_000).num_shards
        3
    """

    num: int
    seed: int = 0
    format: ImageFormat = "png"
    quality: int = 95
    label: Label = "shape"
    members: Sequence[Member] = ()
    shard_size: int = 10_000
    block_size: int = 64
    interventions: Interventions = field(default_factory=Interventions)

    def __post_init__(self) -> None:
        require_counts(self, "num", "quality", "shard_size")
        require_counts(self, "block_size", most=_MAX_BLOCK)
        require_counts(self, "seed", least=0)
        if self.quality > 100:
            raise ArgumentError(f"quality must be 1 to 100, got {self.quality}")
        if self.num_shards > MAX_SHARDS:
            raise ArgumentError(
                f"num and shard_size make {self.num_shards} shards, and a set has {MAX_SHARDS} at "
                "most: raise shard_size"
            )
        require_choices(self, format=ImageFormat, label=Label)
        if isinstance(self.members, str):
            raise ArgumentTypeError(f"members must be a list of names, got {self.members!r}")
        for member in self.members:
            require_choice("members", member, MEMBERS)
        # In a fixed order, so that the same set has the same settings.
        object.__setattr__(self, "members", tuple(m for m in MEMBERS if m in self.members))
        if not isinstance(self.interventions, Interventions):
            raise ArgumentTypeError(f"interventions must be rules, got {self.interventions!r}")
        if self.interventions.kind != "uniform":
            raise ArgumentError(
                "shards are rendered without real batches, whose classes "
                f"Interventions({self.interventions.kind!r}) would permute: use 'uniform'"
            )

    @property
    def num_shards(self) -> int:
        """Number of shards in the set."""
        return -(-self.num // self.shard_size)

    def samples_of(self, shard: int) -> range:
        """Returns the indices of the images in `shard`.

        Args:
            shard: number of the shard.
        """
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.num))

    def blocks_of(self, shard: int) -> range:
        """Returns the blocks that hold the images of `shard`; the first and last may be partial.

        Args:
            shard: number of the shard.
        """
        samples = self.samples_of(shard)
        return range(samples[0] // self.block_size, samples[-1] // self.block_size + 1)

    def place(self, index: int) -> dict[str, int]:
        """Returns the index of an image and the seed of its noise generator.

        Args:
            index: index of the image.
        """
        return {"noise_seed": step_seed(Purpose.SAMPLE_NOISE, self.seed, index), "index": index}

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of a sample's files, in the order of the tar."""
        # Lossy masks would have grey borders, so masks are always lossless.
        masks = "npy" if self.format == "npy" else "png"
        kinds = {"mask": masks}
        extra = [f"{member}.{kinds.get(member, self.format)}" for member in self.members]
        return tuple(sorted([self.format, "cls", "json", *extra]))

    def describe(self, cgn: Mechanisms) -> dict[str, Any]:
        """Returns everything that determines the bytes of the set, as plain values.

        Args:
            cgn: the CGN that draws the set.
        """
        rules = {factor: getattr(self.interventions, factor) for factor in FACTORS}
        known, every = known_classes(cgn), range(cgn.num_classes)
        # Only if they are not all, so that sets of CGNs keep their settings.
        sparse = {} if known in (len(every), tuple(every)) else {"classes": [*known]}  # type: ignore[misc]
        plain = {name: getattr(self, name) for name in _PLAIN}
        plain["members"] = list(self.members)
        if self.format not in ("jpg", "webp"):
            plain["quality"] = None
        return {
            **plain,
            "interventions": {
                **{f: list(rule) if isinstance(rule, tuple) else rule for f, rule in rules.items()},
                "num_per_shape": self.interventions.num_per_shape,
                "class_map": repr(self.interventions.class_map),
            },
            "cgn": cgn.fingerprint,
            "image_size": cgn.image_size,
            "num_classes": cgn.num_classes,
            **sparse,
        }


def config_of(settings: dict[str, Any]) -> ShardConfig:
    """Returns the configuration described by the `settings` of a set, without its class map."""
    plain = {name: settings[name] for name in _PLAIN}
    rules = {name: settings["interventions"][name] for name in (*FACTORS, "num_per_shape")}
    plain["quality"] = plain["quality"] or 95
    return ShardConfig(**plain, interventions=Interventions(**rules))


def sample_key(index: int) -> str:
    """Returns the key of image `index`: of fixed length, without a dot."""
    return f"{index:09d}"
