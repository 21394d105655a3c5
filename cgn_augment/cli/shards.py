"""The commands `cgn-augment shards`, `shards verify` and `shards info`."""

from __future__ import annotations

import sys

from tqdm import tqdm

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import load_cgn
from cgn_augment.interventions import Interventions
from cgn_augment.pictures.sheets import check_picture, save_figure
from cgn_augment.shards.config import ImageFormat, Member, ShardConfig
from cgn_augment.shards.summary import draw_shards, summarize_shards
from cgn_augment.shards.verify import advice, verify_shards
from cgn_augment.shards.write import render_shards


def render(
    cgn: str = "",
    num: int = 0,
    out: str = "",
    seed: int = 0,
    format: ImageFormat = "png",  # noqa: A002 - the name of the option
    quality: int = 95,
    label: str = "shape",
    members: list[Member] = [],  # noqa: B006 - jsonargparse shows the default, and it stays empty
    shape: list[int] | None = None,
    texture: list[int] | None = None,
    background: list[int] | None = None,
    num_per_shape: int = 1,
    shard_size: int = 10_000,
    block_size: int = 64,
    rank: int | None = None,
    world_size: int | None = None,
    num_encoders: int = 1,
    device: str = "cpu",
    resume: bool = False,
) -> None:
    """Renders counterfactuals into WebDataset shards.

    Several processes share out the shards: start them with torchrun, or give each its --rank and
    the --world-size. After an interruption the same command with --resume completes the set.

    Args:
        cgn: path of a .pth or .safetensors checkpoint, or the name of a bundled generator.
        num: images.
        out: folder or URL (such as s3://bucket/folder) of the set.
        seed: of classes and noise.
        format: png, jpg, webp, or npy (float32, as drawn).
        quality: of jpg and webp, 1 to 100.
        label: the factor that becomes the label: shape, texture or background.
        members: further files of a sample: mask, foreground, background.
        shape: classes that shapes are drawn from (default: all).
        texture: classes that textures are drawn from (default: all).
        background: classes that backgrounds are drawn from (default: all).
        num_per_shape: this many neighbours show the same shape.
        shard_size: images of a shard.
        block_size: images that go through the network together; another number changes last digits.
        rank: which of the processes this is (default: torchrun's).
        world_size: how many processes there are (default: torchrun's).
        num_encoders: threads that encode.
        device: where to draw, such as cpu or cuda.
        resume: go on with what is in OUT.
    """
    missing = [f"--{n}" for n, given in {"cgn": cgn, "num": num, "out": out}.items() if not given]
    if missing:
        raise ArgumentError(f"shards needs {', '.join(missing)}: see cgn-augment shards --help")
    config = ShardConfig(
        num=num,
        seed=seed,
        format=format,
        quality=quality,
        label=label,  # type: ignore[arg-type]
        members=tuple(members),
        shard_size=shard_size,
        block_size=block_size,
        interventions=Interventions(
            shape=shape, texture=texture, background=background, num_per_shape=num_per_shape
        ),
    )
    try:
        manifest = render_shards(
            load_cgn(cgn, device=device),
            out,
            config,
            rank=rank,
            world_size=world_size,
            resume=resume,
            num_encoders=num_encoders,
            progress=True,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume completes the set") from None
    if manifest is None:
        print(f"{out}: the shards of this process are complete, those of others are not yet")
    else:
        print(f"{out}: complete, {config.num} images in {config.num_shards} shards")


def verify(out: str) -> None:
    """Checks names, counts, checksums, images and labels of a set, and says what to render again.

    Args:
        out: folder or URL of the set.
    """
    with tqdm(unit="shard", desc="verifying") as bar:
        problems = verify_shards(out, bar.update)
    if not problems:
        print(f"{out}: nothing is wrong")
        return
    for problem in problems:
        print(problem)
    print(advice(problems))
    sys.exit(1)


def info(out: str, sheet: str = "shards.png") -> None:
    """Prints what a set holds and draws some of its images.

    Args:
        out: folder or URL of the set.
        sheet: the picture to write.
    """
    check_picture(sheet)
    for name, value in summarize_shards(out).items():
        print(f"{name:20} {value}")
    print(f"{'sheet':20} {save_figure(draw_shards(out), sheet)}")
