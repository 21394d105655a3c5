"""Sets of shards in other libraries, without our code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from shard_helpers import members

# They leave files open, and warn of what they themselves do.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
NUM = 40


def labels_by_key(folder: Path) -> dict[str, dict[str, int]]:
    files = {name: data for tar in folder.glob("*.tar") for name, data in members(tar).items()}
    return {name[:-5]: json.loads(data) for name, data in files.items() if name.endswith(".json")}


def read_plainly(folder: Path) -> Any:
    urls = str(folder / "counterfactuals-{000000..000003}.tar")
    return webdataset.WebDataset(urls, shardshuffle=False).decode("pil")


def read_by_hugging_face(folder: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    files = {"train": [str(path) for path in sorted(folder.glob("*.tar"))]}
    return datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)


@pytest.mark.parametrize("read", [read_plainly, read_by_hugging_face])
def test_readers_of_webdataset_read_a_set(
    read: Callable[[Path], Any], masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    expected, seen = labels_by_key(masked), set()
    for sample in read(masked):
        assert sample["json"] == expected[sample["__key__"]]
        assert sample["cls"] == sample["json"]["shape"]
        assert sample["png"].size == sample["mask.png"].size == (32, 32)
        seen.add(sample["__key__"])
    assert seen == set(expected)
    assert len(seen) == NUM


@pytest.mark.parametrize("is_training", [False, True])
def test_timms_reader_reads_a_set(is_training: bool, masked: Path) -> None:
    reader_wds = pytest.importorskip("timm.data.readers.reader_wds")
    reader = reader_wds.ReaderWds(str(masked), split="train", is_training=is_training)
    assert len(reader) == NUM
    labels = sorted(facts["shape"] for facts in labels_by_key(masked).values())
    read = [(np.asarray(image).shape, target) for image, target in reader]
    assert {shape for shape, _ in read} == {(32, 32, 3)}
    if is_training:
        assert len(read) >= NUM
    else:
        assert sorted(target for _, target in read) == labels
