"""Sets of shards in other libraries, without our code."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_a_plain_webdataset_pipeline_reads_a_set(masked: Path) -> None:
    urls = str(masked / "counterfactuals-{000000..000003}.tar")
    pipeline = webdataset.WebDataset(urls, shardshuffle=False).decode("torchrgb")
    expected, seen = labels_by_key(masked), set()
    for sample in pipeline:
        assert sample["json"] == expected[sample["__key__"]]
        assert sample["cls"] == sample["json"]["shape"]
        assert sample["png"].shape == (3, 32, 32)
        assert sample["mask.png"].shape[-2:] == (32, 32)
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


def test_hugging_face_datasets_reads_a_set(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(masked.glob("*.tar"))]
    dataset = datasets.load_dataset(
        "webdataset", data_files={"train": paths}, split="train", streaming=True
    )
    expected, seen = labels_by_key(masked), set()
    for sample in dataset:
        assert sample["json"] == expected[sample["__key__"]]
        assert sample["cls"] == sample["json"]["shape"]
        assert sample["png"].size == (32, 32)
        seen.add(sample["__key__"])
    assert seen == set(expected)
