"""Samples as files: what lies in a tar, in each format."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shard_helpers import members, render

from cgn_augment import Interventions
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN
from cgn_augment.generators.drawing import draw_factors
from cgn_augment.shards import ShardConfig, verify_shards
from cgn_augment.shards.sampling import draw_numbered, numbered_classes, pictures

FIRST = "counterfactuals-000000.tar"


def test_a_sample_is_an_image_its_label_and_what_is_known_of_it(
    whole: Path, tiny_cgn: SmallCGN
) -> None:
    for index in (0, 13, 49):
        files = members(whole / f"counterfactuals-{index // 12:06d}.tar")
        assert [name for name in files if name.startswith(f"{index:09d}.")] == [
            f"{index:09d}.{suffix}" for suffix in ("cls", "json", "png")
        ]
        facts = json.loads(files[f"{index:09d}.json"])
        # The image again, by hand: alone, from what its labels say.
        classes = torch.tensor([[facts[f]] for f in ("shape", "texture", "background")])
        generator = torch.Generator().manual_seed(facts["noise_seed"])
        drawn = draw_factors(tiny_cgn, classes, generator, 1, 1)
        image = compose(drawn.mask, drawn.foreground, drawn.background)[0]
        assert facts["index"] == index
        assert files[f"{index:09d}.cls"] == str(facts["shape"]).encode()
        pixels = np.asarray(Image.open(io.BytesIO(files[f"{index:09d}.png"]))).astype(float)
        expected = (image.permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(pixels - expected).max() <= 0.501


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("png", 0.5001), ("jpg", 20), ("webp", 60), ("npy", 0)]
)
def test_formats_keep_the_image_and_further_members(
    kind: Any, tolerance: float, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    config = ShardConfig(
        num=3, format=kind, label="texture", members=("background", "mask", "foreground")
    )
    render(tiny_cgn, tmp_path / "set", config)
    files = members(tmp_path / "set" / FIRST)
    mask_kind = "npy" if kind == "npy" else "png"
    suffixes = ["cls", "json", kind, f"mask.{mask_kind}", f"foreground.{kind}"]
    suffixes += [f"background.{kind}"]
    assert sorted(files) == sorted(f"{i:09d}.{suffix}" for i in range(3) for suffix in suffixes)

    def read(member: str = "") -> np.ndarray:
        """Images in [-1, 1] and masks in [0, 1], of what other libraries read."""
        suffix = f"{member}.{mask_kind if member == 'mask' else kind}".lstrip(".")
        data = io.BytesIO(files[f"000000001.{suffix}"])
        if kind == "npy":
            return np.load(data)
        pixels = np.asarray(Image.open(data)).astype(float)
        return pixels[None] / 255 if member == "mask" else pixels.transpose(2, 0, 1) / 127.5 - 1

    drawn = numbered_classes(Interventions(), 10, range(64))
    image = pictures(draw_numbered(tiny_cgn, drawn))["composite"][1].numpy()
    assert files["000000001.cls"] == str(int(drawn[1, 1])).encode()
    assert np.abs(read() - image).max() <= tolerance / 127.5
    assert read("mask").shape == (1, 32, 32)
    # The image is the foreground where the mask is 1 and the background where it is 0.
    composed = read("mask") * read("foreground") + (1 - read("mask")) * read("background")
    assert np.abs(composed - read()).max() <= (
        1e-5 if kind == "npy" else (2 * tolerance + 1.5) / 127.5
    )
    assert verify_shards(tmp_path / "set") == []


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_quality_is_that_of_the_lossy_formats(
    kind: Any, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    sizes = []
    for quality in (10, 95):
        config = ShardConfig(num=2, format=kind, quality=quality, block_size=2)
        render(tiny_cgn, tmp_path / str(quality), config)
        sizes.append(len(members(tmp_path / str(quality) / FIRST)[f"000000000.{kind}"]))
    assert sizes[0] < sizes[1]


def test_the_tar_tells_neither_time_nor_user(whole: Path) -> None:
    with tarfile.open(whole / FIRST) as tar:
        kept = {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in tar}
    assert kept == {(0, 0, 0, "cgn", "cgn", 0o444)}


def test_another_block_size_draws_the_same_images(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    for block_size, rules in [(1, {}), (7, {}), (7, {"num_per_shape": 3})]:
        samples = []
        for size in (block_size, 20):
            out = tmp_path / f"set{block_size}{len(rules)}{size}"
            config = ShardConfig(
                num=20, format="npy", block_size=size, interventions=Interventions(**rules)
            )
            render(tiny_cgn, out, config)
            samples.append(members(out / FIRST))
        assert samples[0].keys() == samples[1].keys()
        for name, data in samples[0].items():
            if name.endswith("npy"):
                images = [np.load(io.BytesIO(s[name])) for s in samples]
                np.testing.assert_allclose(*images, rtol=0, atol=1e-5)
            else:
                assert data == samples[1][name]


def test_neighbours_share_a_shape(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    rules = Interventions(num_per_shape=3)
    config = ShardConfig(12, format="npy", members=("mask",), block_size=5, interventions=rules)
    render(tiny_cgn, tmp_path / "set", config)
    files = members(tmp_path / "set" / FIRST)
    masks = [np.load(io.BytesIO(files[f"{i:09d}.mask.npy"])) for i in range(12)]
    for i in range(12):
        assert np.abs(masks[i] - masks[i - i % 3]).max() <= 1e-5
        assert i % 3 or i == 0 or np.abs(masks[i] - masks[i - 1]).max() > 0.01
    assert verify_shards(tmp_path / "set") == []
