"""The commands on sets of shards, and other libraries that read one."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fsspec
import matplotlib.image
import numpy as np
import pytest
import torch
import webdataset
from shard_helpers import contents

from cgn_augment import ShardSource
from cgn_augment.cli import program as cli
from cgn_augment.generators import SmallCGN, save_cgn
from cgn_augment.shards import ShardConfig, render_shards
from cgn_augment.shards import verify_shards as verify
from cgn_augment.shards.verify import Problem, advice
from cgn_augment.types import Step

THIRD_PARTY = pytest.mark.filterwarnings(
    # Other libraries leave files open, and warn of what they themselves do.
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
NUM = 40
Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def checkpoint(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_cgn(tiny_cgn, path)
    return path


@pytest.fixture(scope="module")
def shards(tiny_cgn: SmallCGN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of ten images with a mask."""
    folder = tmp_path_factory.mktemp("tools") / "set"
    render_shards(tiny_cgn, folder, ShardConfig(num=NUM, shard_size=10, members=("mask",)))
    return folder


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def run(*arguments: object) -> int:
    """Runs the command; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cgn-augment", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def labels_by_key(folder: Path) -> dict[str, dict[str, int]]:
    found = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for info in tar:
                if info.name.endswith(".json"):
                    found[info.name[:-5]] = json.loads(tar.extractfile(info).read())
    return found


# Commands


def test_the_command_renders_what_the_function_renders(
    checkpoint: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    settings = ("--cgn", checkpoint, "--num", "4_0", "--out", out, "--shard-size", 10)
    settings = (*settings, "--members", "[mask]", "--world-size", 2)
    assert run("shards", *settings, "--rank", 1) == 0
    assert "those of others are not yet" in capsys.readouterr().out
    assert run("shards", *settings, "--rank", 0) == 0
    assert "complete, 40 images in 4 shards" in capsys.readouterr().out
    assert contents(out) == contents(shards)
    assert run("shards", *settings, "--rank", 0) == 2
    assert "pass --resume" in capsys.readouterr().err
    (out / "counterfactuals-000002.tar").unlink()
    assert run("shards", *settings, "--rank", 0, "--resume") == 0
    assert contents(out) == contents(shards)


def start(checkpoint: Path, out: Path, *arguments: object, before: Sequence[str] = ()) -> Process:
    program = Path(sys.executable).with_name("cgn-augment")
    command = [*before, program, "shards", "--cgn", checkpoint, "--out", out, *arguments]
    return subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        # What is started in the background of a script ignores Ctrl-C; this one must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_torchrun_starts_the_ranks(checkpoint: Path, shards: Path, tmp_path: Path) -> None:
    torchrun = Path(sys.executable).with_name("torchrun")
    before = [str(torchrun), "--nproc-per-node", "2", "--no-python", "--"]
    arguments = ("--num", NUM, "--shard-size", 10, "--members", "[mask]")
    process = start(checkpoint, tmp_path / "set", *arguments, before=before)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert contents(tmp_path / "set") == contents(shards)


def test_ctrl_c_keeps_complete_shards_and_says_how_to_go_on(
    checkpoint: Path, tmp_path: Path
) -> None:
    out, arguments = tmp_path / "set", ("--num", 4000, "--shard-size", 100, "--format", "jpg")
    process = start(checkpoint, out, *arguments)
    while not list(out.glob("*.tar")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted; the same command with --resume completes the set" in error
    assert "Traceback" not in error
    complete = contents(out)
    assert not (out / "manifest.json").exists()
    assert sum(name.endswith(".tar") for name in complete) < 40
    assert run(*("shards", "--cgn", checkpoint, "--out", out, *arguments, "--resume")) == 0
    assert verify(out) == []
    assert complete.items() <= contents(out).items()


def test_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("shards", "--num", 5) == 2
    assert "shards needs --cgn, --out: see" in capsys.readouterr().err
    assert run("shards", "--help") == 0
    assert "--resume" in capsys.readouterr().out
    assert run("shards", "verify", "nowhere") == 2
    error = capsys.readouterr().err
    assert "nowhere has no _settings.json" in error
    assert "damaged" not in error


def test_info_prints_a_summary_and_draws_a_sheet(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("shards", "info", shards, "--sheet", tmp_path / "sheet.png") == 0
    printed = capsys.readouterr().out
    for line in ("40 of 40", "4 of 4", "cls, json, mask.png, png", "32x32", "10 of 10"):
        assert line in printed
    assert matplotlib.image.imread(tmp_path / "sheet.png").std() > 0.05
    assert run("shards", "info", shards, "--sheet", "sheet.gif") == 2
    assert "a picture is saved as one of" in capsys.readouterr().err


def test_info_of_an_incomplete_set_says_how_far_it_is(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "manifest.json").unlink()
    (copied / "counterfactuals-000001.tar").unlink()
    assert run("shards", "info", copied, "--sheet", tmp_path / "sheet.png") == 0
    assert "30 of 40" in capsys.readouterr().out


# Verify


def rewrite(folder: Path, shard: int, change: Callable[[str, bytes], bytes | None]) -> None:
    """Writes a shard anew, each file changed; None leaves it out."""
    path = folder / f"counterfactuals-{shard:06d}.tar"
    with tarfile.open(path) as tar:
        files = [(info, tar.extractfile(info).read()) for info in tar]
    with tarfile.open(path, "w") as tar:
        for info, data in files:
            changed = change(info.name, data)
            if changed is not None:
                info.size = len(changed)
                tar.addfile(info, io.BytesIO(changed))


def at(name: str, new: bytes | None) -> Callable[[str, bytes], bytes | None]:
    return lambda found, data: new if found == name else data


def relabel(key: str, value: int) -> Callable[[str, bytes], bytes | None]:
    def change(name: str, data: bytes) -> bytes:
        if name != "000000012.json":
            return data
        return json.dumps({**json.loads(data), key: value}).encode()

    return change


def another_background(name: str, data: bytes) -> bytes:
    if name != "000000012.json":
        return data
    facts = json.loads(data)
    return json.dumps({**facts, "background": (facts["background"] + 1) % 10}).encode()


def test_a_good_set_has_no_problems(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("shards", "verify", shards) == 0
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (at("000000012.png", b"no image"), "sample 000000012 has a png that cannot be decoded"),
        (at("000000012.mask.png", b""), "has a mask.png that cannot be decoded"),
        (at("000000012.cls", b"77"), "has the label 77 where its shape is"),
        (at("000000012.cls", b"cat"), "has labels that cannot be read"),
        (at("000000012.json", b"{}"), "has labels that cannot be read"),
        (at("000000012.png", None), "has the files"),
        (relabel("texture", 10), "of 10"),
        (another_background, "belong"),
        (relabel("index", 13), "another index or noise seed"),
        (relabel("noise_seed", 1), "another index or noise seed"),
        (lambda name, data: None if "019" in name else data, "has 9 samples where 10 belong"),
        (lambda name, data: None if "012" in name else data, "lies where 000000012 belongs"),
    ],
)
def test_verify_finds_what_a_checksum_of_the_damage_would_hide(
    change: Callable[[str, bytes], bytes | None], what: str, copied: Path
) -> None:
    rewrite(copied, 1, change)
    problems = verify(copied)
    assert {problem.shard for problem in problems} == {1}
    assert any("are not the" in problem.what for problem in problems)
    # With the checksums of the damaged file in the records the contents still tell.
    data = (copied / "counterfactuals-000001.tar").read_bytes()
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["shards"][1] |= {
        "num_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (copied / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = verify(copied)
    assert problem.shard == 1
    assert what in problem.what


def test_verify_finds_damaged_missing_and_foreign_files(
    copied: Path, shards: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = copied / "counterfactuals-000000.tar"
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    (copied / "counterfactuals-000001.tar").unlink()
    third = copied / "counterfactuals-000003.tar"
    third.write_bytes(third.read_bytes()[:9999])
    (copied / "counterfactuals-000004.tar").write_bytes(b"")
    (copied / ".counterfactuals-000001.x.tar").write_bytes(b"half")
    (copied / "_info.json").write_text("{}")
    assert run("shards", "verify", copied) == 1
    printed = capsys.readouterr().out
    for line in (
        "counterfactuals-000001.tar: is missing",
        "counterfactuals-000004.tar: is no shard of this set",
        ".counterfactuals-000001.x.tar: was left by a process that was killed",
        "_info.json: is missing or does not list",
        "to render again: 3 of the shards (0-1, 3). Delete what is left of them",
    ):
        assert line in printed
    # What it says to do is what helps.
    for name in ("0", "3", "4"):
        (copied / f"counterfactuals-00000{name}.tar").unlink()
    settings = ("--cgn", checkpoint, "--num", 40, "--out", copied, "--shard_size", 10)
    assert run("shards", *settings, "--members", "[mask]", "--resume") == 0
    assert verify(copied) == []
    assert contents(copied) == contents(shards)


def test_verify_of_an_incomplete_set_says_so(copied: Path) -> None:
    (copied / "manifest.json").unlink()
    (problem,) = verify(copied)
    assert problem.name == "manifest.json"
    assert "not every shard was rendered" in problem.what
    assert "no shard needs rendering" in advice([problem])
    (copied / "_records" / "counterfactuals-000002.json").unlink()
    assert [problem.shard for problem in verify(copied)] == [None, 2]


def test_advice_joins_neighbours() -> None:
    problems = [Problem("a", "b", shard) for shard in (5, 1, 0, 2, 9, 10)]
    assert "6 of the shards (0-2, 5, 9-10)" in advice(problems)


# Other libraries, without our code


@THIRD_PARTY
def test_a_plain_webdataset_pipeline_reads_a_set(shards: Path) -> None:
    urls = str(shards / "counterfactuals-{000000..000003}.tar")
    pipeline = webdataset.WebDataset(urls, shardshuffle=False).decode("torchrgb")
    expected, seen = labels_by_key(shards), set()
    for sample in pipeline:
        assert sample["json"] == expected[sample["__key__"]]
        assert sample["cls"] == sample["json"]["shape"]
        assert sample["png"].shape == (3, 32, 32)
        assert sample["mask.png"].shape[-2:] == (32, 32)
        seen.add(sample["__key__"])
    assert seen == set(expected)
    assert len(seen) == NUM


@THIRD_PARTY
@pytest.mark.parametrize("is_training", [False, True])
def test_timms_reader_reads_a_set(is_training: bool, shards: Path) -> None:
    reader_wds = pytest.importorskip("timm.data.readers.reader_wds")
    reader = reader_wds.ReaderWds(str(shards), split="train", is_training=is_training)
    assert len(reader) == NUM
    labels = sorted(facts["shape"] for facts in labels_by_key(shards).values())
    read = [(np.asarray(image).shape, target) for image, target in reader]
    assert {shape for shape, _ in read} == {(32, 32, 3)}
    if is_training:
        assert len(read) >= NUM
    else:
        assert sorted(target for _, target in read) == labels


@THIRD_PARTY
def test_hugging_face_datasets_reads_a_set(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(shards.glob("*.tar"))]
    dataset = datasets.load_dataset(
        "webdataset", data_files={"train": paths}, split="train", streaming=True
    )
    expected, seen = labels_by_key(shards), set()
    for sample in dataset:
        assert sample["json"] == expected[sample["__key__"]]
        assert sample["cls"] == sample["json"]["shape"]
        assert sample["png"].size == (32, 32)
        seen.add(sample["__key__"])
    assert seen == set(expected)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a local server that speaks S3; fsspec finds it by the environment."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("shards")
    yield "s3://shards"
    server.stop()


@THIRD_PARTY
def test_a_set_is_rendered_to_s3_resumed_checked_and_read(
    bucket: str, shards: Path, tiny_cgn: SmallCGN
) -> None:
    url, config = f"{bucket}/some/set", ShardConfig(num=NUM, shard_size=10, members=("mask",))
    assert render_shards(tiny_cgn, url, config, rank=1, world_size=2) is None
    files = fsspec.filesystem("s3")
    files.rm("shards/some/set/counterfactuals-000003.tar")
    render_shards(tiny_cgn, url, config, resume=True)
    files.invalidate_cache()
    found = files.find("shards/some/set")
    prefix = "shards/some/set/"
    assert {p.removeprefix(prefix): files.cat(p) for p in found} == contents(shards)
    assert verify(url) == []
    local, remote = ShardSource(shards, refresh=8), ShardSource(url, refresh=8)
    assert remote.fingerprint == local.fingerprint
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        sample = remote.sample(8, generator, Step(step))
        expected = local.sample(8, generator.manual_seed(step), Step(step))
        assert torch.equal(sample.images, expected.images)
