"""The commands `cgn-augment shards`, `shards verify` and `shards info`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from cgn_augment.cli.options import settings_as_options
from cgn_augment.cli.screen import tell
from cgn_augment.cli.sets import EngineName, check_set, find_engine, resumable, tell_written
from cgn_augment.errors import ArgumentError
from cgn_augment.generators.drawing import default_interventions
from cgn_augment.interventions import Interventions
from cgn_augment.parts.opening import load_mechanisms
from cgn_augment.pictures.sheets import check_picture, save_figure
from cgn_augment.shards.config import ShardConfig
from cgn_augment.shards.layout import COUNTERFACTUALS
from cgn_augment.shards.on_ray import RayEngine
from cgn_augment.shards.summary import draw_shards, summarize_shards
from cgn_augment.shards.verify import verify_shards
from cgn_augment.shards.write import render_shards


@settings_as_options(ShardConfig, without=("interventions",))
def render(
    config: ShardConfig,
    cgn: str,
    out: str,
    shape: list[int] | None = None,
    texture: list[int] | Literal["shape", "other"] | None = None,
    background: list[int] | Literal["other"] | None = None,
    num_per_shape: int = 1,
    rank: int | None = None,
    world_size: int | None = None,
    num_encoders: int = 1,
    size: int | None = None,
    device: str = "cpu",
    resume: bool = False,
    engine: EngineName = "local",
    ray: RayEngine = RayEngine(),  # noqa: B008 - it is frozen
) -> None:
    """Renders counterfactuals into WebDataset shards.

    Several processes can share the shards: start them with torchrun, or give each its --rank and
    the --world-size. With --engine ray a Ray cluster renders them. After an interruption the same
    command with --resume completes the set.

    Args:
        config: of the set.
        cgn: path of a .pth or .safetensors checkpoint, name of a bundled generator, or folder or
            URL of parts.
        out: folder or URL (such as s3://bucket/folder) of the set.
        shape: classes to draw shapes from (default: all).
        texture: classes to draw textures from (default: all; for parts: shape); shape takes that of
            the object, other any class but the shape's.
        background: classes to draw backgrounds from (default: all); other takes any class but the
            shape's.
        num_per_shape: how many neighbours share one shape.
        rank: which of the processes this is (default: torchrun's).
        world_size: number of processes (default: torchrun's).
        num_encoders: threads that encode.
        size: parts only: side of the square images, in pixels; by default the median side of the
            parts' images.
        device: where to draw, such as cpu or cuda.
        resume: continue the set in OUT.
        engine: local renders in this process; ray has a task of a Ray cluster render each shard.
        ray: of the engine ray, what a task takes.
    """
    on_ray = find_engine(engine, ray) is ray
    if on_ray:
        _require_device(device, ray)
    network = load_mechanisms(cgn, device="cpu" if on_ray else device, size=size)
    rules = Interventions(
        shape=shape,
        texture=default_interventions(network).texture if texture is None else texture,
        background=background,
        num_per_shape=num_per_shape,
    )
    config = replace(config, interventions=rules)
    with resumable():
        manifest = render_shards(
            network,
            out,
            config,
            rank=rank,
            world_size=world_size,
            resume=resume,
            num_encoders=num_encoders,
            progress=True,
            engine=find_engine(engine, ray),
            device=device if on_ray else None,
        )
    tell_written(out, manifest)


def _require_device(device: str, ray: RayEngine) -> None:
    """Raises where tasks would draw on what they do not take."""
    if device not in ("cpu", "cuda"):
        raise ArgumentError(f"with the engine ray, device is cpu or cuda, got {device}")
    if (device == "cuda") != (ray.gpus > 0):
        raise ArgumentError(
            f"device {device} and {ray.gpus:g} GPUs of a task do not go together: pass --device "
            "cuda --ray.gpus 1, or neither"
        )


def verify(out: str) -> None:
    """Checks names, counts, checksums, images and labels of a set, and says what to write again.

    Args:
        out: folder or URL of the set.
    """
    check_set(out, verify_shards, COUNTERFACTUALS)


def info(out: str, sheet: str = "shards.png") -> None:
    """Prints what a set holds and draws some of its images.

    Args:
        out: folder or URL of the set.
        sheet: the picture to write.
    """
    check_picture(sheet)
    for name, value in summarize_shards(out).items():
        tell(name, value, 20)
    tell("sheet", save_figure(draw_shards(out), sheet), 20)
