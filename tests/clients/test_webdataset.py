"""webdataset's loaders and pipelines as real data."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import webdataset
from client_helpers import check_epoch, steps_of, stream
from stream_helpers import Run, check_resume, picture

from cgn_augment import CounterfactualDataset

# webdataset closes its shards when they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"
)


def web_loader(folder: Path) -> webdataset.WebLoader:
    with webdataset.TarWriter(str(folder / "digits.tar")) as tar:
        for i in range(19):
            file = io.BytesIO()
            torch.save(picture(i), file)
            tar.write({"__key__": f"{i:03}", "pth": file.getvalue(), "cls": i % 10})
    shards = webdataset.WebDataset(str(folder / "digits.tar"), shardshuffle=False)
    samples = shards.decode().to_tuple("pth", "cls").batched(4)
    return webdataset.WebLoader(samples, batch_size=None, num_workers=0)


def test_a_web_loader_is_mixed_and_resumes(tmp_path: Path) -> None:
    def make() -> CounterfactualDataset:
        return stream(web_loader(tmp_path))

    run = Run(make)
    for epoch in run.epochs:
        check_epoch(epoch)
    check_resume(make, run, [(0, 3)])


def test_a_web_loader_gives_its_length_and_a_web_dataset_is_batched(
    tmp_path: Path,
) -> None:
    with pytest.warns(UserWarning, match="only sets the value of __len__"):
        real = web_loader(tmp_path).with_length(5)
    train = stream(real)
    assert len(train) == len(list(train)) == 5
    samples = webdataset.WebDataset(str(tmp_path / "digits.tar"), shardshuffle=False)
    check_epoch(list(stream(samples.decode().to_tuple("pth", "cls"), batch_size=4)))


def test_a_broken_off_epoch_of_a_web_loader_is_over(tmp_path: Path) -> None:
    train, whole = (stream(web_loader(tmp_path)) for _ in range(2))
    next(iter(train))
    second = list(train)
    assert train.epoch == 2
    list(whole)
    # What is left over of a counterfactual is another number, which shows in the last step.
    assert steps_of(second[:4]) == steps_of(list(whole)[:4])
