"""`ShardSource` and files that are not as their manifest says: skipped and counted, one by one."""

from __future__ import annotations

import io
import json
import resource
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from shard_helpers import Change, rewrite_tar

from cgn_augment import ClassMap, Interventions, ShardSource, Step
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.generators import SmallCGN
from cgn_augment.shards import ShardConfig, render_shards, verify_shards


@pytest.fixture(scope="module")
def pictures(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of eight PNG images."""
    folder = tmp_path_factory.mktemp("pictures") / "set"
    render_shards(tiny_cgn, folder, ShardConfig(num=32, shard_size=8, block_size=32))
    return folder


@pytest.fixture
def copied(pictures: Path, tmp_path: Path) -> Path:
    """A set that may be damaged."""
    return Path(shutil.copytree(pictures, tmp_path / "copy"))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def as_picture(mode: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


def claim_size(png: bytes, size: int) -> bytes:
    """A PNG whose header says that it is larger than it is."""
    header = b"IHDR" + struct.pack(">II", size, size) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def replaced(name: str, data: bytes) -> Change:
    return lambda found, old: data if found == name else old


def labels(**changed: Any) -> bytes:
    return json.dumps({"shape": 1, "texture": 2, "background": 3, **changed}).encode()


FOREIGN = {
    "larger": ("png", as_picture("RGB", (33, 33))),
    "smaller": ("png", as_picture("RGB", (1, 1))),
    "not square": ("png", as_picture("RGB", (32, 31))),
    "RGBA": ("png", as_picture("RGBA", (32, 32))),
    "grey": ("png", as_picture("L", (32, 32))),
    "palette": ("png", as_picture("P", (32, 32))),
    "16 bits": ("png", as_picture("I;16", (32, 32))),
    "another format": ("png", as_picture("RGB", (32, 32), "BMP")),
    "EPS": ("png", as_picture("RGB", (32, 32), "EPS")),
    "nothing": ("png", b""),
    "class 99": ("json", labels(shape=99)),
    "class -5": ("json", labels(shape=-5)),
    "class 1e30": ("json", labels(texture=1e30)),
    "class 3.0": ("json", labels(background=3.0)),
    "class True": ("json", labels(shape=True)),
    "class of words": ("json", labels(shape="1")),
    "no class": ("json", b"{}"),
    "a list": ("json", b"[1, 2, 3]"),
    "no JSON": ("json", b"\xff\xfe"),
    "nested": ("json", b"[" * 200_000),
}


@pytest.mark.parametrize("first", [True, False], ids=["first of its chunk", "later"])
@pytest.mark.parametrize("case", FOREIGN)
def test_one_foreign_sample_is_skipped_and_all_others_are_drawn(
    case: str, first: bool, copied: Path
) -> None:
    suffix, data = FOREIGN[case]
    index = 8 if first else 11
    name = f"{index:09d}.{suffix}"
    rewrite_tar(copied / "counterfactuals-000001.tar", replaced(name, data))
    source = ShardSource(copied, refresh=8, size=32, shuffle=0)
    with pytest.warns(UserWarning, match=f"sample {index:09d}: it ") as warned:
        drawn = source.sample(31, seeded())
    assert len(warned) == 1
    assert source.num_skipped == 1
    assert drawn.images.shape == (31, 3, 32, 32)
    assert all(0 <= int(y) < 10 for y in torch.cat([drawn.shape, drawn.texture, drawn.background]))
    assert len(np.unique(drawn.images.numpy().reshape(31, -1), axis=0)) == 31


def test_a_set_of_foreign_samples_alone_is_an_error_that_says_so(copied: Path) -> None:
    grey = as_picture("L", (32, 32))
    for path in copied.glob("*.tar"):
        rewrite_tar(path, lambda name, data: grey if name.endswith(".png") else data)
    with (
        pytest.warns(UserWarning, match="it is 32x32 L and not 32x32 RGB"),
        pytest.raises(DataError, match="all of the 32 samples read last are damaged"),
    ):
        ShardSource(copied, refresh=8, size=32).sample(4, seeded())


def as_array(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_header(**changed: Any) -> bytes:
    """An array whose header claims more than there is."""
    file, facts = io.BytesIO(), {"descr": "<f4", "fortran_order": False, **changed}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue() + bytes(100)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (as_array(np.zeros((3, 16, 16), np.float32)), r"shape \(3, 16, 16\)"),
        (as_array(np.zeros((3, 32, 32))), "it is float64"),
        (as_array(np.full((3, 32, 32), np.nan, np.float32)), "it holds NaN"),
        (as_array(np.full((3, 32, 32), 255, np.float32)), r"values outside \[-1, 1\]"),
        (as_header(shape=(3, 10**6, 10**6)), r"shape \(3, 1000000, 1000000\)"),
        (as_header(shape=(3, 32, 32)), "ValueError"),
    ],
)
def test_arrays_of_another_shape_type_or_range_are_skipped(
    data: bytes, what: str, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    render_shards(tiny_cgn, tmp_path / "set", ShardConfig(num=8, block_size=8, format="npy"))
    path = tmp_path / "set" / "counterfactuals-000000.tar"
    rewrite_tar(path, replaced("000000002.npy", data))
    source = ShardSource(tmp_path / "set", refresh=8, size=8)
    with pytest.warns(UserWarning, match=f"sample 000000002: .*{what}"):
        assert len(source.sample(7, seeded())) == 7
    assert source.num_skipped == 1


def test_a_small_file_that_unfolds_to_a_huge_picture_is_never_decoded(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = claim_size(as_picture("RGB", (8, 8)), 9000)
    rewrite_tar(copied / "counterfactuals-000001.tar", replaced("000000009.png", huge))
    loaded: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda image: loaded.append(image.size) or load(image)
    )
    with pytest.warns(UserWarning, match="it is 9000x9000 RGB and not 32x32 RGB"):
        ShardSource(copied, refresh=8, size=32).sample(31, seeded())
    (problem, _) = sorted(map(str, verify_shards(copied)), key=len, reverse=True)
    assert "9000x9000 RGB and not 32x32 RGB" in problem
    assert set(loaded) == {(32, 32)}


# Classes that few shards hold


def render_with_class_0_in(folder: Path, cgn: SmallCGN, shards: tuple[int, ...]) -> None:
    """Four shards of eight images, of which some have images of class 0 and the others none."""
    for i in range(4):
        rules = Interventions(shape=[0, 1] if i in shards else [1, 2])
        render_shards(cgn, folder / f"{i}", ShardConfig(8, seed=i, interventions=rules))


@pytest.mark.parametrize("shuffle", [0, 8])
@pytest.mark.parametrize("shards", [(0, 2), (3,)])
def test_a_class_that_most_shards_lack_is_read_from_those_that_have_it(
    shards: tuple[int, ...], shuffle: int, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    render_with_class_0_in(tmp_path, tiny_cgn, shards)
    folders = [tmp_path / f"{i}" for i in range(4)]
    source = ShardSource(folders, refresh=4, size=8, shuffle=shuffle)
    restricted = source.restrict(ClassMap({0: [0]}))
    for step in range(6):
        drawn = restricted.sample(4, seeded(), Step(step))
        assert drawn.shape.tolist() == [0] * 4
    assert restricted.num_skipped == 0


def test_too_few_shards_with_a_class_are_known_when_the_source_is_restricted(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    render_with_class_0_in(tmp_path, tiny_cgn, (0,))
    folders = [tmp_path / f"{i}" for i in range(4)]
    source = ShardSource(folders, world_size=2)
    with pytest.raises(ArgumentError, match="1 shards with an image of the classes of class_map"):
        source.restrict(ClassMap({0: [0]}))


# Workers


def test_many_small_chunks_of_workers_keep_no_files_open(copied: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = ShardSource(copied, refresh=2, size=1024, num_workers=2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    source.sample(2, seeded())
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 60 < most
    source.close()
