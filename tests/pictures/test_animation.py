"""Animations, and the frames that are read back from them."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import pytest
import torch

from cgn_augment.errors import ArgumentError, MissingPackageError
from cgn_augment.pictures.animation import write_animation


def make_frames() -> torch.Tensor:
    """Three frames of 32x33 pixels: red, green and blue."""
    frames = torch.zeros(3, 3, 32, 33, dtype=torch.uint8)
    for colour in range(3):
        frames[colour, colour] = 255
    return frames


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_an_animation_has_the_frames_and_their_rate(suffix: str, tmp_path: Path) -> None:
    path = write_animation(make_frames(), tmp_path / f"a{suffix}", frames_per_second=10)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 10
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 3
    # Enlarged by a whole number; H.264 wants even sizes, and has 32 * 8 and 33 * 8.
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


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize("rate", [float("inf"), float("nan"), 1e12, 1e-9])
def test_a_rate_that_no_format_can_count_is_refused(
    rate: float, suffix: str, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="frames_per_second must be"):
        write_animation(make_frames(), tmp_path / f"a{suffix}", frames_per_second=rate)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [0.01, 0.3, 7.5, 1000])
def test_a_rate_is_no_rounded_one(rate: float, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    write_animation(make_frames(), tmp_path / "a.gif", frames_per_second=rate)
    with av.open(str(write_animation(make_frames(), tmp_path / "a.mp4", rate))) as container:
        assert float(container.streams.video[0].guessed_rate) == pytest.approx(rate, rel=1e-3)
