"""Animations, and the frames that are read back from them."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cgn_augment.errors import ArgumentError, MissingPackageError
from cgn_augment.pictures.animation import write_animation


def make_frames() -> torch.Tensor:
    """Three frames of 32x33 pixels: red, green and blue."""
    frames = torch.zeros(3, 3, 32, 33, dtype=torch.uint8)
    for colour in range(3):
        frames[colour, colour] = 255
    return frames


def test_a_gif_has_the_frames_and_their_rate(tmp_path: Path) -> None:
    path = write_animation(make_frames(), tmp_path / "a.gif", frames_per_second=10)
    with Image.open(path) as image:
        assert image.n_frames == 3
        assert image.size == (33 * 8, 256)  # enlarged by a whole number
        assert image.info["duration"] == 100
        for colour in range(3):
            image.seek(colour)
            pixel = np.asarray(image.convert("RGB"))[100, 100]
            assert pixel.argmax() == colour


def test_an_mp4_has_the_frames_and_their_rate(tmp_path: Path) -> None:
    path = write_animation(make_frames(), tmp_path / "a.mp4", frames_per_second=5)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 5
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 3
    assert decoded[0].shape == (256, 264, 3)
    for colour, pixels in enumerate(decoded):
        assert pixels[100, 100].argmax() == colour


def test_animations_that_cannot_be_written_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = make_frames()
    with pytest.raises(ArgumentError, match=r"one of \.gif, \.mp4, got 'a\.avi'"):
        write_animation(frames, tmp_path / "a.avi")
    with pytest.raises(ArgumentError, match="missing is missing: make it first"):
        write_animation(frames, tmp_path / "missing" / "a.gif")
    with pytest.raises(
        ArgumentError, match=r"\(N, 3, H, W\) uint8, got \(3, 3, 32, 33\) .*float32"
    ):
        write_animation(frames.float(), tmp_path / "a.gif")
    with pytest.raises(ArgumentError, match="frames_per_second must be above 0, got 0"):
        write_animation(frames, tmp_path / "a.gif", frames_per_second=0)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'cgn-augment\[video\]', or write"):
        write_animation(frames, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
