"""Shards that are not whole, not plain or not regular: one error each, which names the shard."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cgn_augment.errors import DataError, FileError
from cgn_augment.images.datasets import evaluation_transform, open_images
from cgn_augment.images.loading import LoadConfig
from cgn_augment.images.tar import Sample, expand_urls, read_shard

NUM = 3


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", **facts: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for fact, value in facts.items():
        setattr(info, fact, value)
    tar.addfile(info, io.BytesIO(data))


def make_tar(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names or [f"{i}.{suffix}" for i in range(NUM) for suffix in ("cls", "txt")]:
            add(tar, name, b"content")
    return file.getvalue()


WHOLE = make_tar()
BLOCK = tarfile.BLOCKSIZE
LENGTH = NUM * 2 * 2 * BLOCK  # a header and the contents of each file


def read(path: Path) -> Iterator[Sample]:
    return read_shard(str(path))


@pytest.mark.parametrize(
    "name", ["plain.tar", "run{1,2}.tar", "a b\\c.tar", "a::b.tar", "[ab]*?.tar"]
)
def test_a_whole_shard_of_any_name_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(WHOLE)
    assert expand_urls(str(path)) == [str(path)]
    assert [sample["__key__"] for sample in read(path)] == ["0", "1", "2"]


CUT = {
    "behind a sample": (2 * 4 * BLOCK, 1),  # it is whole where another follows
    "behind the last sample": (LENGTH, 2),
    "inside a header": (2 * 4 * BLOCK + 100, 1),
    "inside a file": (2 * 4 * BLOCK + BLOCK + 3, 1),
    "before a file": (2 * 4 * BLOCK + BLOCK, 1),
    "nothing": (0, 0),
    "in the first header": (100, 0),
}


@pytest.mark.parametrize("case", CUT)
def test_a_shard_that_is_cut_off_is_an_error_that_counts_what_was_read(
    case: str, tmp_path: Path
) -> None:
    length, num = CUT[case]
    path = tmp_path / "cut.tar"
    path.write_bytes(WHOLE[:length])
    samples = []
    with pytest.raises(
        DataError, match=rf"cut\.tar is damaged behind sample [{num}{num - 1}]"
    ) as told:
        samples += [sample["__key__"] for sample in read(path)]
    assert len(str(told.value).splitlines()) == 1


FOREIGN = {
    "HTML": (b"<html><body>Sign in</body></html>" * 40, "damaged behind sample 0"),
    "gzip": (gzip.compress(bytes(10**6)), "compressed with gzip"),
    "xz": (b"\xfd7zXZ\x00" + bytes(600), "compressed with xz"),
    "twice the same file": (make_tar("0.cls", "0.cls"), "duplicate"),
    "macOS": (make_tar("0.cls", "._0.cls"), r"'\._0\.cls', a file of macOS"),
    "macOS in a folder": (make_tar("d/0.cls", "d/._0.jpg"), r"'d/\._0\.jpg', a file of macOS"),
    "noise": (bytes(range(256)) * 40, "damaged behind sample 0"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_plain_tar_is_one_error(case: str, tmp_path: Path) -> None:
    data, what = FOREIGN[case]
    path = tmp_path / "shard.tar"
    path.write_bytes(data)
    with pytest.raises(DataError, match=what) as told:
        list(read(path))
    assert "shard.tar" in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_files_that_claim_more_than_there_is_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "0.cls", b"x", type=tarfile.GNUTYPE_SPARSE)
    data = bytearray(path.read_bytes())
    data[483:495] = b"77777777777\0"  # the real size of a sparse file, 8 GiB
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    with pytest.raises(DataError, match="sparse or larger than 1 GiB"):
        list(read(path))
    headers = io.BytesIO()
    for _ in range(3000):
        info = tarfile.TarInfo("././@LongLink")
        info.type = tarfile.GNUTYPE_LONGNAME
        headers.write(info.tobuf(tarfile.GNU_FORMAT))
    path.write_bytes(headers.getvalue())
    with pytest.raises(DataError, match="damaged behind sample 0"):
        list(read(path))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_may_never_end_is_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(FileError, match="is no regular file"):
        list(read(path))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_classifier_is_told_of_a_shard_that_ends_too_early(
    num_workers: int, tmp_path: Path
) -> None:
    picture, whole = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for i in range(NUM):
            add(tar, f"{i}.cls", b"1")
            add(tar, f"{i}.png", picture.getvalue())
        length = tar.offset
    path = tmp_path / "val.tar"
    transform = evaluation_transform((0.5,) * 3, (0.5,) * 3, 8)
    path.write_bytes(whole.getvalue()[:length])
    images = open_images(str(path), transform, classes=2)
    seen = []
    with pytest.raises(DataError, match=r"val\.tar is damaged behind sample 2"):
        seen.extend(labels.tolist() for _, labels in images.testing(LoadConfig(1, num_workers)))
    assert seen == [[1]] * 2
