"""Every reader on broken files: the right content or an error of one line, in time and room.

A number of cases of each kind runs by default; `pytest tests/fuzz --fuzz 1000` runs as many of
each as one likes. A case is a function of its kind and number alone.
"""

from __future__ import annotations

import random
import resource
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPO
from fuzz_helpers import answers, break_bytes, break_json, break_tree
from part_helpers import make_photos, write
from PIL import Image
from shard_helpers import rewrite_tar
from stream_helpers import stream
from torch import nn
from training_helpers import make

from cgn_augment import ShardSource, load_cgn, load_masker
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.images.finding import read_image
from cgn_augment.images.tar import read_shard
from cgn_augment.masks import UNetMasker, save_masker
from cgn_augment.parts.review import write_review
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.sheet import summarize_parts
from cgn_augment.parts.verify import verify_parts
from cgn_augment.shards import ShardConfig, render_shards, verify_shards
from cgn_augment.shards.summary import summarize_shards
from train_generator.training.trainer import CHECKPOINT

NUM = 25  # cases of each kind by default
MOST_BYTES = 2**30

KINDS: dict[str, Callable[[Path, Path, random.Random], object]] = {}


def kind(reader: Callable[[Path, Path, random.Random], object]) -> Callable[..., object]:
    """Registers a function that breaks something of the whole files in a folder, and reads it."""
    KINDS[reader.__name__] = reader
    return reader


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_cgn: SmallCGN) -> Path:
    """One whole file or set of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    save_cgn(tiny_cgn, folder / "cgn.safetensors")
    torch.save(tiny_cgn.state_dict(), folder / "cgn.pth")
    save_masker(UNetMasker(width=4), folder / "masker.safetensors")
    for name in ("png", "npy"):
        config = ShardConfig(12, shard_size=6, block_size=6, format=name)  # type: ignore[arg-type]
        render_shards(tiny_cgn, folder / name, config)
    make(folder / "training").train(progress=False)
    write(make_photos(folder / "photos", 2), folder / "parts")
    noise = torch.randint(256, (16, 16, 3), generator=torch.Generator().manual_seed(0))
    for suffix in ("png", "jpg", "webp", "gif", "bmp", "tiff", "ppm"):
        Image.fromarray(noise.byte().numpy()).save(folder / f"image.{suffix}")
    return folder


def broken(path: Path, out: Path, rng: random.Random) -> Path:
    target = out / path.name
    target.write_bytes(break_bytes(path.read_bytes(), rng))
    return target


def copied(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out / folder.name))


def require_finite(network: nn.Module) -> None:
    assert all(bool(weight.isfinite().all()) for weight in network.parameters())


@kind
def pickled_checkpoint(whole: Path, out: Path, rng: random.Random) -> None:
    require_finite(load_cgn(broken(whole / "cgn.pth", out, rng)))


@kind
def pickled_values(whole: Path, out: Path, rng: random.Random) -> None:
    state = torch.load(whole / "cgn.pth", weights_only=True)
    torch.save(break_tree(dict(state), rng), out / "cgn.pth")
    require_finite(load_cgn(out / "cgn.pth"))


@kind
def safetensors(whole: Path, out: Path, rng: random.Random) -> None:
    require_finite(load_cgn(broken(whole / "cgn.safetensors", out, rng)))


@kind
def safetensors_header(whole: Path, out: Path, rng: random.Random) -> None:
    name = rng.choice(("cgn", "masker"))
    data = (whole / f"{name}.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = break_json(data[8 : 8 + length], rng)
    path = out / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    require_finite(load_cgn(path) if name == "cgn" else load_masker(path))


@kind
def masker(whole: Path, out: Path, rng: random.Random) -> None:
    require_finite(load_masker(broken(whole / "masker.safetensors", out, rng)))


@kind
def tar(whole: Path, out: Path, rng: random.Random) -> None:
    path = broken(whole / "png" / "counterfactuals-000000.tar", out, rng)
    assert sum(1 for _ in read_shard(str(path), shuffle=rng.choice((0, 4)))) <= 12


def read_set(folder: Path) -> str | None:
    source = ShardSource(folder, refresh=4, size=12, shuffle=4)
    drawn = source.sample(6, torch.Generator().manual_seed(0))
    assert drawn.images.shape == (6, 3, 32, 32)
    assert float(drawn.images.abs().max()) <= 1.01
    classes = torch.stack([drawn.shape, drawn.texture, drawn.background])
    assert 0 <= int(classes.min()) <= int(classes.max()) < 10
    return "skipped" if source.num_skipped else None


@kind
def shard(whole: Path, out: Path, rng: random.Random) -> str | None:
    folder = copied(whole / rng.choice(("png", "npy")), out)
    path = folder / "counterfactuals-000001.tar"
    path.write_bytes(break_bytes(path.read_bytes(), rng))
    if (folder / path.name).read_bytes() != (whole / folder.name / path.name).read_bytes():
        assert verify_shards(folder)
    return read_set(folder)


@kind
def sample(whole: Path, out: Path, rng: random.Random) -> str | None:
    folder = copied(whole / rng.choice(("png", "npy")), out)
    number = rng.randrange(6)

    def change(name: str, data: bytes) -> bytes:
        if int(name[:9]) != number:
            return data
        return break_json(data, rng) if name.endswith("json") else break_bytes(data, rng)

    rewrite_tar(folder / "counterfactuals-000000.tar", change)
    return read_set(folder)


@kind
def manifest(whole: Path, out: Path, rng: random.Random) -> str | None:
    folder = copied(whole / "png", out)
    path = folder / "manifest.json"
    path.write_bytes(break_json(path.read_bytes(), rng))
    verify_shards(folder)
    return read_set(folder)


@kind
def settings(whole: Path, out: Path, rng: random.Random) -> None:
    folder = copied(whole / "png", out)
    path = folder / rng.choice(("_settings.json", "_records/counterfactuals-000001.json"))
    path.write_bytes(break_json(path.read_bytes(), rng))
    summarize_shards(folder)
    verify_shards(folder)


def read_parts(folder: Path) -> None:
    """Reads all that is in a set, and tells and shows it."""
    read = PartSet.open(folder)
    for number in range(len(read)):
        read.read(number, foreground=True)
    summarize_parts(read)
    write_review(read, folder / "review.html", num_threads=1)


@kind
def parts(whole: Path, out: Path, rng: random.Random) -> None:
    folder = copied(whole / "parts", out)
    path = rng.choice(sorted(folder.rglob("*.*")))
    change = break_json if path.suffix == ".json" else break_bytes
    path.write_bytes(change(path.read_bytes(), rng))
    verify_parts(folder)
    read_parts(folder)


@kind
def index(whole: Path, out: Path, rng: random.Random) -> None:
    folder = copied(whole / "parts", out)
    path = folder / "index.jsonl"
    lines = path.read_bytes().splitlines()
    lines[0] = break_json(lines[0], rng)
    path.write_bytes(b"\n".join(lines) + b"\n")
    verify_parts(folder)
    read_parts(folder)


@kind
def image(whole: Path, out: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(whole.glob("image.*")))
    assert read_image(broken(path, out, rng)).mode == "RGB"


@kind
def training(whole: Path, out: Path, rng: random.Random) -> None:
    path = whole / "training" / CHECKPOINT
    if rng.random() < 0.5:
        state = break_tree(torch.load(path, weights_only=True), rng)
        torch.save(state, out / CHECKPOINT)
    else:
        broken(path, out, rng)
    make(out, resume=True).train(progress=False)


@kind
def stream_state(whole: Path, out: Path, rng: random.Random) -> None:
    saved = stream()
    next(iter(saved))
    resumed = stream()
    resumed.load_state_dict(break_tree(saved.state_dict(), rng))
    assert len(list(resumed)) <= len(saved)


def answer(name: str, number: int, whole: Path, out: Path) -> str:
    """What the reader of a kind says to case `number`."""
    try:
        return answers(lambda: KINDS[name](whole, out, random.Random(f"{name} {number}")))
    except BaseException as error:
        error.add_note(f"case {number} of {name}")
        raise


@pytest.mark.parametrize("name", KINDS)
def test_an_answer_is_an_error_of_one_line_or_the_right_content(
    name: str, whole: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    told: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(request.config.getoption("--fuzz") or NUM):
        out = tmp_path / f"{number}"
        out.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of skipped samples, and of Pillow
            told[answer(name, number, whole, out)] += 1
        shutil.rmtree(out)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MOST_BYTES
    print(f"{name}: {dict(told)}, {grown / 2**20:.0f} MiB")
    assert told.total() - told["whole"] > 0  # the cases do break something


IN_WORDS = {
    "pickled_checkpoint": "pickled checkpoints",
    "pickled_values": "pickled values",
    "safetensors": "safetensors",
    "safetensors_header": "headers of safetensors",
    "masker": "maskers",
    "tar": "tars",
    "shard": "shards",
    "sample": "samples in shards",
    "manifest": "manifests",
    "settings": "settings of sets",
    "parts": "sets of parts",
    "index": "their index",
    "image": "images",
    "training": "checkpoints of trainings",
    "stream_state": "states of streams",
}


def test_the_page_on_security_names_every_kind() -> None:
    assert list(IN_WORDS) == list(KINDS)
    *names, last = IN_WORDS.values()
    kinds = f"{', '.join(names)} and {last}"
    text = (REPO / "SECURITY.md").read_text(encoding="utf-8")
    assert f"files of fifteen kinds by a seed and reads them: {kinds}." in text
    assert len(KINDS) == 15
