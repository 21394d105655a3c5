"""Writes frames as GIF or MP4."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cgn_augment.checks import require_package
from cgn_augment.errors import ArgumentError
from cgn_augment.files import replacing
from cgn_augment.pictures.sheets import check_picture

ANIMATIONS = (".gif", ".mp4")

_LEAST_HEIGHT = 256
"""Smaller frames are enlarged by a whole number, since they are hard to see."""

_SLOWEST, _FASTEST = 0.01, 1000


def write_animation(
    frames: Tensor, path: str | os.PathLike[str], frames_per_second: float = 8
) -> Path:
    """Writes an animation, whole or not at all, and returns its path.

    Args:
        frames: (N, 3, H, W) uint8.
        path: ends in .gif, or in .mp4 (H.264; needs the package av).
        frames_per_second: up to 50 in a GIF, the limit of players.

    Raises:
        ArgumentError: the suffix or shape is wrong, the folder is missing, or the rate is not from
            0.01 to 1000.
        MissingPackageError: av is not installed.
        OSError: the folder cannot be written.

    Examples:
        >>> import torch
        >>> from cgn_augment.pictures.animation import write_animation
        >>> frames = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
        >>> write_animation(frames, getfixture("tmp_path") / "three.gif").name
        'three.gif'
    """
    path = check_animation(path)
    if frames.dim() != 4 or frames.shape[1] != 3 or len(frames) == 0 or frames.is_floating_point():
        raise ArgumentError(
            f"frames must be (N, 3, H, W) uint8, got {tuple(frames.shape)} {frames.dtype}"
        )
    if not frames_per_second > 0:
        raise ArgumentError(f"frames_per_second must be above 0, got {frames_per_second}")
    if not _SLOWEST <= frames_per_second <= _FASTEST:  # what the formats can store
        raise ArgumentError(
            f"frames_per_second must be {_SLOWEST} to {_FASTEST}, got {frames_per_second}"
        )
    factor = -(-_LEAST_HEIGHT // frames.shape[2])
    frames = frames.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    with replacing(path) as temporary:
        write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
        write(frames, temporary, frames_per_second)
    return path


def check_animation(path: str | os.PathLike[str]) -> Path:
    """Returns the path of an animation if `write_animation` can write there, or raises."""
    path = check_picture(path, ANIMATIONS)
    if path.suffix.lower() == ".mp4":
        need = "an MP4 is written by the package av, which is not installed"
        require_package("av", "video", need, "write a .gif")
    return path


def _write_gif(frames: Tensor, path: Path, frames_per_second: float) -> None:
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    # A GIF counts hundredths of a second; players replace delays below two by ten.
    duration = max(20, round(1000 / frames_per_second))
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)


def _write_mp4(frames: Tensor, path: Path, frames_per_second: float) -> None:
    import av

    height, width = frames.shape[2:]
    rate = Fraction(frames_per_second).limit_denominator(1000)
    frames = F.pad(frames, (0, width % 2, 0, height % 2))  # H.264 needs even sizes
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            pixels = frame.permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
