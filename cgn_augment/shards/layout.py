"""Which files a set of shards has, whatever its samples are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MANIFEST, INFO, SETTINGS = "manifest.json", "_info.json", "_settings.json"
RECORDS = "_records"


@dataclass(frozen=True)
class SetKind:
    """A kind of sets.

    Attributes:
        name: that its settings bear.
        prefix: of the names of its shards.
        command: that writes it, for the errors.

    Examples:
        >>> from cgn_augment.shards.layout import COUNTERFACTUALS
        >>> COUNTERFACTUALS.shard_name(7), COUNTERFACTUALS.record_name(7)
        ('counterfactuals-000007.tar', '_records/counterfactuals-000007.json')
    """

    name: str
    prefix: str
    command: str

    def shard_name(self, shard: int) -> str:
        """Returns the name of the file of a shard."""
        return f"{self.prefix}{shard:06d}.tar"

    def shard_number(self, name: str) -> int:
        """Returns the number of the shard that a file of this name holds."""
        return int(name.removesuffix(".tar").removeprefix(self.prefix))

    def record_name(self, shard: int, suffix: str = "json") -> str:
        """Returns the name of the file that says what a complete shard holds."""
        return f"{RECORDS}/{self.prefix}{shard:06d}.{suffix}"


COUNTERFACTUALS = SetKind("counterfactuals", "counterfactuals-", "cgn-augment shards")
PARTS = SetKind("parts", "parts-", "cgn-augment parts")

_KINDS = {kind.name: kind for kind in (COUNTERFACTUALS, PARTS)}


def kind_of(settings: dict[str, Any]) -> SetKind:
    """Returns the kind of the set that has these settings."""
    return _KINDS[settings.get("kind", COUNTERFACTUALS.name)]


def num_shards_of(settings: dict[str, Any]) -> int:
    """Returns how many shards the set that has these settings has when it is complete."""
    counted: int = settings.get("num_shards") or -(-settings["num"] // settings["shard_size"])
    return counted
