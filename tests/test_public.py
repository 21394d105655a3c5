"""The public names, and what an import of them costs."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import cgn_augment

NAMES = """
    BankSource CGNError ClassMap CounterfactualDataset Counterfactuals FreshSource
    Interventions MaskGate Masker Mechanisms MixedBatch OffAfter Parts Placement Ramp
    RealBatch RealShapeSource ShardSource Source Step load_cgn load_masker load_parts match_real
""".split()  # noqa: SIM905
"""At most 24."""

ROOMS = ["generators", "images", "masks", "parts", "pictures", "shards", "sources", "stream"]
HEAVY = [
    "torchvision",
    "kornia",
    "matplotlib",
    "scipy",
    "PIL",
    "boto3",
    "webdataset",
    "pytorch_pretrained_biggan",
    "torch.utils.tensorboard",
    "accelerate",
]


def test_a_public_name_comes_or_goes_on_purpose() -> None:
    assert cgn_augment.__all__ == NAMES
    assert {*NAMES, *ROOMS} <= set(dir(cgn_augment))
    for name in NAMES:
        assert getattr(cgn_augment, name).__module__.startswith("cgn_augment.")
    with pytest.raises(AttributeError, match="has no attribute 'SmallCGN'"):
        _ = cgn_augment.SmallCGN


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_is_an_index_of_names_that_are_there(name: str) -> None:
    room = getattr(cgn_augment, name)
    assert isinstance(room, ModuleType)
    assert room.__doc__
    listed = getattr(room, "__all__", [])
    assert listed == sorted(listed, key=lambda public: (not public.isupper(), public))
    assert all(hasattr(room, public) for public in listed)


def test_an_import_is_light_and_rooms_come_when_they_are_asked_for() -> None:
    script = f"""
import sys, cgn_augment
print([name for name in ("torch", "numpy", "typing") if name in sys.modules])
from cgn_augment import {", ".join(name for name in NAMES if name != "ShardSource")}
print([name for name in {HEAVY} if name in sys.modules])
print(cgn_augment.shards.render_shards.__name__, cgn_augment.ShardSource.__name__)
"""
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == ["[]", "[]", "render_shards ShardSource"]
