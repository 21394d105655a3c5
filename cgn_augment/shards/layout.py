"""The files of a set of shards, for any kind of sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MANIFEST, INFO, SETTINGS = "manifest.json", "_info.json", "_settings.json"
RECORDS = "_records"


@dataclass(frozen=True)
class SetKind:
    """A kind of set.

    Attributes:
        name: its name in the settings.
        prefix: prefix of the names of its shards.
        command: command that writes it, for errors.

    Examples:
        >>> from cgn_augment.shards.layout import COUNTERFACTUALS
        >>> COUNTERFACTUALS.shard_name(7), COUNTERFACTUALS.record_name(7)
        ('counterfactuals-000007.tar', '_records/counterfactuals-000007.json')
    """

    name: str
    prefix: str
    command: str

    def shard_name(self, shard: int) -> str:
        """Returns the file name of a shard."""
        return f"{self.prefix}{shard:06d}.tar"

    def shard_number(self, name: str) -> int:
        """Returns the number of the shard with this file name."""
        return int(name.removesuffix(".tar").removeprefix(self.prefix))

    def record_name(self, shard: int, suffix: str = "json") -> str:
        """Returns the name of the file that describes a complete shard."""
        return f"{RECORDS}/{self.prefix}{shard:06d}.{suffix}"


COUNTERFACTUALS = SetKind("counterfactuals", "counterfactuals-", "cgn-augment shards")
PARTS = SetKind("parts", "parts-", "cgn-augment parts")

_KINDS = {kind.name: kind for kind in (COUNTERFACTUALS, PARTS)}


def kind_of(settings: dict[str, Any]) -> SetKind:
    """Returns the kind of set that these settings describe."""
    return _KINDS[settings.get("kind", COUNTERFACTUALS.name)]


def num_shards_of(settings: dict[str, Any]) -> int:
    """Returns the number of shards of a complete set with these settings."""
    counted: int = settings.get("num_shards") or -(-settings["num"] // settings["shard_size"])
    return counted
