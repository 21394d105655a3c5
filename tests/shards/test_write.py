"""Rendering shards: the same bytes whoever renders them, and nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from shard_helpers import contents, kill_and_resume

from cgn_augment import ClassMap, Interventions
from cgn_augment.errors import ArgumentError, ArgumentTypeError, DataError, FileError
from cgn_augment.functional import compose
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.generators.drawing import draw_factors
from cgn_augment.shards import ShardConfig, render_shards, verify_shards, write
from cgn_augment.shards.manifest import Manifest, Record, read_manifest
from cgn_augment.shards.sampling import draw_numbered, numbered_classes
from cgn_augment.shards.store import Store

CONFIG = ShardConfig(num=50, shard_size=12, block_size=8)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def render(cgn: SmallCGN, out: Path, config: ShardConfig = CONFIG, **kwargs: Any) -> None:
    world_size = kwargs.pop("world_size", 1)
    for rank in kwargs.pop("ranks", range(world_size)):
        render_shards(cgn, out, config, rank=rank, world_size=world_size, **kwargs)


@pytest.fixture(scope="module")
def whole(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted set of one process."""
    out = tmp_path_factory.mktemp("whole") / "set"
    render(tiny_cgn, out)
    return out


# What is written


def test_a_set_has_the_documented_files(whole: Path) -> None:
    names = [f"counterfactuals-{shard:06d}" for shard in range(5)]
    assert sorted(contents(whole)) == sorted(
        [
            *[f"{name}.tar" for name in names],
            *[f"_records/{name}.json" for name in names],
            "_info.json",
            "_settings.json",
            "manifest.json",
        ]
    )
    info = json.loads((whole / "_info.json").read_text())["splits"]["train"]
    assert info == {
        "name": "train",
        "num_samples": 50,
        "filenames": [f"{name}.tar" for name in names],
        "shard_lengths": [12, 12, 12, 12, 2],
    }


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
    files = members(tmp_path / "set" / "counterfactuals-000000.tar")
    mask_kind = "npy" if kind == "npy" else "png"
    suffixes = ["cls", "json", kind, f"mask.{mask_kind}", f"foreground.{kind}"]
    suffixes += [f"background.{kind}"]
    assert sorted(files) == sorted(f"{i:09d}.{suffix}" for i in range(3) for suffix in suffixes)

    def read(suffix: str) -> np.ndarray:
        data = io.BytesIO(files[f"000000001.{suffix}"])
        return np.load(data) if suffix.endswith("npy") else np.asarray(Image.open(data))

    drawn = numbered_classes(Interventions(), 10, range(64))
    factors = draw_numbered(tiny_cgn, drawn)
    image = compose(factors.mask, factors.foreground, factors.background)[1]
    assert files["000000001.cls"] == str(int(drawn[1, 1])).encode()
    if kind == "npy":
        assert np.array_equal(read("npy"), image.numpy())
        assert read("mask.npy").shape == (1, 32, 32)
    else:
        expected = (image.permute(1, 2, 0).numpy() + 1) * 127.5
        assert np.abs(read(kind) - expected).max() <= tolerance
        assert read("mask.png").shape == (32, 32)
    # The image is the foreground where the mask is 1 and the background where it is 0.
    scale = 1.0 if kind == "npy" else 1 / 255
    mask = read(f"mask.{mask_kind}").astype(float) * scale
    mask = mask if kind == "npy" else mask[:, :, None]
    composed = mask * read(f"foreground.{kind}") + (1 - mask) * read(f"background.{kind}")
    limit = 1e-5 if kind == "npy" else 2 * tolerance + 1.5
    assert np.abs(composed - read(kind)).max() <= limit
    assert verify_shards(tmp_path / "set") == []


def test_quality_is_that_of_the_lossy_formats(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    for kind in ("jpg", "webp"):
        sizes = []
        for quality in (10, 95):
            out = tmp_path / f"{kind}{quality}"
            render(tiny_cgn, out, ShardConfig(num=4, format=kind, quality=quality))  # type: ignore
            sizes.append(len(members(out / "counterfactuals-000000.tar")[f"000000000.{kind}"]))
        assert sizes[0] < sizes[1]


def test_the_tar_tells_neither_time_nor_user(whole: Path) -> None:
    with tarfile.open(whole / "counterfactuals-000000.tar") as tar:
        kept = {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in tar}
    assert kept == {(0, 0, 0, "cgn", "cgn", 0o444)}


def test_class_counts_of_the_manifest_are_those_of_the_files(whole: Path) -> None:
    manifest = read_manifest(Store(whole))
    counts = {factor: [0] * 10 for factor in ("shape", "texture", "background")}
    for record in manifest.shards:
        for name, data in members(whole / record.name).items():
            if name.endswith(".json"):
                for factor, row in counts.items():
                    row[json.loads(data)[factor]] += 1
    assert manifest.class_counts == counts
    assert sum(counts["shape"]) == 50


def test_interventions_choose_the_classes(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    rules = Interventions(shape=[2, 7], background=4, num_per_shape=4)
    render(tiny_cgn, tmp_path / "set", ShardConfig(num=16, interventions=rules))
    counts = read_manifest(Store(tmp_path / "set")).class_counts
    assert counts["background"] == [0, 0, 0, 0, 16, 0, 0, 0, 0, 0]
    assert counts["shape"][2] + counts["shape"][7] == 16
    assert counts["shape"][2] % 4 == 0
    restricted = Interventions(class_map=ClassMap([1, 3]))
    render(tiny_cgn, tmp_path / "map", ShardConfig(num=16, interventions=restricted))
    assert (
        sum(read_manifest(Store(tmp_path / "map")).class_counts["shape"][i] for i in (1, 3)) == 16
    )


# The same set whoever renders it


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_write_disjoint_shards_of_the_same_set(
    world_size: int, whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    written: list[set[str]] = []
    for rank in reversed(range(world_size)):
        before = set(contents(tmp_path))
        render(tiny_cgn, tmp_path / "set", world_size=world_size, ranks=[rank])
        tars = {name for name in set(contents(tmp_path)) - before if name.endswith(".tar")}
        assert not any(tars & other for other in written)
        written.append(tars)
    assert contents(tmp_path / "set") == contents(whole)


def test_torchrun_says_which_rank_this_is(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        render_shards(tiny_cgn, tmp_path / "set", CONFIG)
    assert contents(tmp_path / "set") == contents(whole)


def test_encoders_and_threads_do_not_change_the_bytes(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        render(tiny_cgn, tmp_path / "set", num_encoders=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path / "set") == contents(whole)


def test_a_sample_depends_neither_on_the_shard_size_nor_on_how_many_there_are(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    def samples(folder: Path) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for path in sorted(folder.glob("*.tar")):
            found |= members(path)
        return found

    render(tiny_cgn, tmp_path / "set", ShardConfig(num=33, shard_size=5, block_size=8))
    expected = {name: data for name, data in samples(whole).items() if int(name[:9]) < 33}
    assert samples(tmp_path / "set") == expected


def test_another_block_size_draws_the_same_images(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    for block_size, rules in [(1, {}), (7, {}), (7, {"num_per_shape": 3})]:
        samples = []
        for size in (block_size, 20):
            out = tmp_path / f"set{block_size}{len(rules)}{size}"
            config = ShardConfig(
                num=20, format="npy", block_size=size, interventions=Interventions(**rules)
            )
            render(tiny_cgn, out, config)
            samples.append(members(out / "counterfactuals-000000.tar"))
        assert samples[0].keys() == samples[1].keys()
        for name, data in samples[0].items():
            if name.endswith("npy"):
                images = [np.load(io.BytesIO(s[name])) for s in samples]
                np.testing.assert_allclose(*images, rtol=0, atol=1e-5)
            else:
                assert data == samples[1][name]


def test_neighbours_share_a_shape(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    config = ShardConfig(
        num=12, members=("mask",), block_size=5, interventions=Interventions(num_per_shape=3)
    )
    render(tiny_cgn, tmp_path / "set", config)
    files = members(tmp_path / "set" / "counterfactuals-000000.tar")
    masks = [np.asarray(Image.open(io.BytesIO(files[f"{i:09d}.mask.png"]))) for i in range(12)]
    masks = [mask.astype(int) for mask in masks]
    for i in range(12):
        assert np.abs(masks[i] - masks[i - i % 3]).max() <= 1
        assert i % 3 or i == 0 or np.abs(masks[i] - masks[i - 1]).max() > 1
    assert verify_shards(tmp_path / "set") == []


def test_another_seed_is_another_set(whole: Path, tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    render(tiny_cgn, tmp_path / "set", ShardConfig(num=50, shard_size=12, block_size=8, seed=1))
    for name, data in contents(tmp_path / "set").items():
        assert name == "_info.json" or data != contents(whole)[name]


def test_no_global_randomness_is_read_or_disturbed(tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    render(tiny_cgn, tmp_path / "set", ShardConfig(num=4))
    assert torch.equal(torch.get_rng_state(), before)


# Interruptions


class Stopping:
    """A CGN that raises at its n-th block."""

    def __init__(self, cgn: SmallCGN, num: int, error: BaseException) -> None:
        self._cgn, self._left, self._error = cgn, num, error
        self.num_classes, self.image_size = cgn.num_classes, cgn.image_size
        self.shared_noise, self.fingerprint = cgn.shared_noise, cgn.fingerprint
        self.device, self.draw_noise = cgn.device, cgn.draw_noise
        self.texture, self.background, self.shuffle = cgn.texture, cgn.background, cgn.shuffle

    def shape(self, noise: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return self._cgn.shape(noise, y)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("CUDA out of memory")])
def test_what_is_complete_stays_and_resume_gives_the_same_bytes(
    error: BaseException, whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    stopping: Any = Stopping(tiny_cgn, 5, error)  # two shards are complete then
    with pytest.raises(type(error)):
        render(stopping, tmp_path / "set")
    left = contents(tmp_path / "set")
    assert 3 <= len(left) < len(contents(whole))
    assert left.items() <= contents(whole).items()
    render(tiny_cgn, tmp_path / "set", resume=True)
    assert contents(tmp_path / "set") == contents(whole)


def test_resume_renders_only_what_is_missing(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out)
    (out / "counterfactuals-000001.tar").unlink()
    (out / "_records" / "counterfactuals-000003.json").unlink()
    damaged = out / "counterfactuals-000004.tar"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    drawn: list[int] = []
    draw_block = write.draw_block
    monkeypatch.setattr(
        write, "draw_block", lambda *args: drawn.append(args[2]) or draw_block(*args)
    )
    render(tiny_cgn, out, resume=True)
    assert drawn == [1, 2, 4, 5, 6]  # blocks of shards 1, 3 and 4, in that order
    assert contents(out) == contents(whole)
    drawn.clear()
    render(tiny_cgn, out, resume=True)
    assert drawn == []


def test_leftovers_of_killed_processes_are_removed_and_files_in_use_are_not(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out, world_size=2, ranks=[1])
    for name in (".counterfactuals-000002.abc.tar", ".manifest.abc.json", "_records/.x"):
        (out / name).write_bytes(b"half")
    with Store(out).writing("counterfactuals-000004.tar") as file:
        file.write(b"of another process")
        render(tiny_cgn, out, world_size=2, ranks=[0], resume=True)
        names = {path.name for path in out.rglob(".*")}
        assert len(names) == 2  # the one in use, and one that is not ours
        assert ".x" in names
    (out / "_records" / ".x").unlink()
    render(tiny_cgn, out, ranks=[0], resume=True)
    assert contents(out) == contents(whole)


def test_starting_over_is_refused(whole: Path, tiny_cgn: SmallCGN, tmp_path: Path) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out)
    before = contents(out)
    with pytest.raises(DataError, match=r"already holds 5 of the 5 shards .* pass --resume"):
        render(tiny_cgn, out)
    with pytest.raises(DataError, match=r"holds another set \(seed: 0 there, 3 asked for\)"):
        render(tiny_cgn, out, ShardConfig(num=50, shard_size=12, block_size=8, seed=3), resume=True)
    other = SmallCGN(width=4).freeze()
    with pytest.raises(DataError, match=r"holds another set \(cgn: "):
        render(other, out, resume=True)
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "photos.tar").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"holds tar files and no _settings\.json"):
        render(tiny_cgn, tmp_path / "tars", resume=True)
    assert contents(out) == before


# In a process of its own: the limit is for all that a process writes, pytest's report too.
ON_A_SMALL_DISK = """
import resource, sys
from cgn_augment import load_cgn
from cgn_augment.shards import ShardConfig, render_shards
cgn, config = load_cgn(sys.argv[1]), ShardConfig(num=50, shard_size=12, block_size=8)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
render_shards(cgn, sys.argv[2], config)
"""


def test_a_file_that_cannot_grow_leaves_nothing_half_written(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    save_cgn(tiny_cgn, tmp_path / "cgn.safetensors")
    arguments = [str(tmp_path / "cgn.safetensors"), str(tmp_path / "set")]
    command = [sys.executable, "-c", ON_A_SMALL_DISK, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert "FileError" in last
    assert "cannot be written (File too large): complete" in last
    assert set(contents(tmp_path / "set")) == {"_settings.json"}


def test_a_full_disk_keeps_the_complete_shards(
    whole: Path, tiny_cgn: SmallCGN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, room = tmp_path / "set", [150_000]
    write_bytes = write.HashingFile.write

    def limited(self: Any, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(self, data)

    with monkeypatch.context() as full:
        full.setattr(write.HashingFile, "write", limited)
        with pytest.raises(FileError, match=r"No space left on device.*--resume goes on"):
            render(tiny_cgn, out)
    left = contents(out)
    assert "_records/counterfactuals-000000.json" in left
    assert left.items() < contents(whole).items()
    render(tiny_cgn, out, resume=True)
    assert contents(out) == contents(whole)


def test_a_target_that_cannot_be_written_is_one_clear_error(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match=r"cannot be written \(.*\): complete shards stay"):
        render(tiny_cgn, tmp_path / "file" / "set")
    with pytest.raises(FileError, match="cannot be written"):
        render(tiny_cgn, Path("/proc/set"))  # read-only for everyone


KILLED = {"num": 400, "shard_size": 25, "format": "jpg", "block_size": 16}


@pytest.mark.parametrize("num_kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_sets_of_killed_ranks_equal_an_uninterrupted_one(
    num_kills: int, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    save_cgn(tiny_cgn, tmp_path / "tiny.safetensors")
    sets = kill_and_resume(tmp_path / "tiny.safetensors", tmp_path, KILLED, num_kills, seed=0)
    render(tiny_cgn, tmp_path / "whole", ShardConfig(**KILLED))
    expected = contents(tmp_path / "whole")
    for out in sets:
        assert contents(out) == expected
        assert verify_shards(out) == []


# Object stores


def test_a_set_in_memory_has_the_same_files(whole: Path, tiny_cgn: SmallCGN) -> None:
    files = fsspec.filesystem("memory")
    stopping: Any = Stopping(tiny_cgn, 5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        render_shards(stopping, "memory://bucket/set", CONFIG)
    assert len(files.find("/bucket/set")) < len(contents(whole))
    render_shards(tiny_cgn, "memory://bucket/set", CONFIG, resume=True)
    found = files.find("/bucket/set")
    assert {p.removeprefix("/bucket/set/"): files.cat(p) for p in found} == contents(whole)
    assert verify_shards("memory://bucket/set") == []
    files.rm("/bucket", recursive=True)


def test_unknown_protocols_are_an_error(tiny_cgn: SmallCGN) -> None:
    with pytest.raises(ArgumentError, match="'nowhere://set' cannot be used: Protocol not known"):
        render_shards(tiny_cgn, "nowhere://set", CONFIG)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num": 0}, ArgumentError, "num must be 1 or more, got 0"),
        ({"num": 2.0}, ArgumentTypeError, "num must be an integer, got 2.0"),
        ({"seed": -1}, ArgumentError, "seed must be 0 or more, got -1"),
        ({"format": "gif"}, ArgumentError, "format must be one of png, jpg, webp, npy, got 'gif'"),
        ({"quality": 101}, ArgumentError, "quality must be 1 to 100, got 101"),
        ({"label": "all"}, ArgumentError, "label must be one of shape, texture, background"),
        ({"members": ("masks",)}, ArgumentError, "members must be one of mask, foreground"),
        ({"members": "mask"}, ArgumentTypeError, "members must be a list of names, got 'mask'"),
        ({"shard_size": 0}, ArgumentError, "shard_size must be 1 or more"),
        ({"interventions": Interventions("permute")}, ArgumentError, "without real batches"),
        ({"interventions": "uniform"}, ArgumentTypeError, "interventions must be rules"),
    ],
)
def test_settings_that_cannot_be_are_errors(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ShardConfig(**{"num": 10, **arguments})


def test_a_wrong_argument_is_known_before_anything_is_written(
    tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    with pytest.raises(ArgumentTypeError, match="rendered by a frozen CGN"):
        render_shards(SmallCGN(width=4), out, CONFIG)
    with pytest.raises(ArgumentError, match="num_encoders must be 1 or more"):
        render_shards(tiny_cgn, out, CONFIG, num_encoders=0)
    with pytest.raises(ArgumentError, match="shape lists class 10"):
        render_shards(tiny_cgn, out, ShardConfig(5, interventions=Interventions(shape=10)))
    with pytest.raises(ArgumentError, match="rank must be 0 to 1 of 2, got 2"):
        render_shards(tiny_cgn, out, CONFIG, rank=2, world_size=2)
    assert not out.exists()


def test_other_versions_are_told_of(
    tiny_cgn: SmallCGN, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "set"
    render(tiny_cgn, out)
    settings = json.loads((out / "_settings.json").read_text())
    settings["versions"]["torch"] = "1.0"
    (out / "_settings.json").write_text(json.dumps(settings))
    render(tiny_cgn, out, resume=True)
    assert "begun with other versions" in caplog.text
    assert "1.0 then" in caplog.text


def test_a_manifest_of_records_adds_them_up() -> None:
    counts = {"shape": [1, 2], "texture": [0, 3], "background": [3, 0]}
    record = Record("a", 0, 3, 10, "", counts)
    manifest = Manifest({}, {}, (record, record))
    assert manifest.num_bytes == 20
    assert manifest.class_counts["shape"] == [2, 4]
