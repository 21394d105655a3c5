"""The commands `cgn-augment parts`, `parts verify`, `parts info` and `parts review`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from cgn_augment.checks import require_count, require_workers
from cgn_augment.cli.masks import tell as tell_masks
from cgn_augment.cli.options import settings_as_options
from cgn_augment.cli.screen import AT_WORK, tell
from cgn_augment.cli.sets import (
    EngineName,
    check_set,
    find_engine,
    resumable,
    tell_written,
)
from cgn_augment.errors import ArgumentError
from cgn_augment.files import require_place
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.inputs import ALPHA
from cgn_augment.parts.masking import mask_photos
from cgn_augment.parts.photos import find_photos, read_keys, require_beside
from cgn_augment.parts.review import check_page, write_review
from cgn_augment.parts.set import PartSet
from cgn_augment.parts.sheet import draw_parts, find_failing, summarize_parts
from cgn_augment.parts.verify import verify_parts
from cgn_augment.parts.writing import LEFT_OUT, write_parts
from cgn_augment.pictures.sheets import check_picture, save_figure
from cgn_augment.shards.layout import PARTS
from cgn_augment.shards.manifest import Manifest
from cgn_augment.shards.on_ray import RayEngine
from cgn_augment.shards.store import Store


@settings_as_options(PartConfig)
def write(
    config: PartConfig,
    images: str,
    out: str,
    exclude: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    num_workers: int | None = None,
    resume: bool = False,
    masker: str | None = None,
    masking: MaskSettings = MaskSettings(),  # noqa: B008 - it is frozen
    engine: EngineName = "local",
    ray: RayEngine = RayEngine(),  # noqa: B008 - it is frozen
) -> None:
    """Takes photographs apart into WebDataset shards, which 'parts info' and 'review' show.

    Several processes can share the shards: start them with torchrun, or give each its --rank and
    the --world-size. With --engine ray a Ray cluster writes them. After an interruption the same
    command with --resume completes the set.

    Args:
        config: of the set.
        images: a folder with one folder of images per class; waterbirds:PATH,
            spawrious:PATH@BENCHMARK, urbancars:PATH or in9:PATH@VARIANT; a table (.csv, .tsv,
            .jsonl, or table:FILE?path=NAME&label=NAME); shards (.tar, braces for several); or
            hf:NAME@SPLIT.
        out: folder or URL (such as s3://bucket/folder) of the set.
        exclude: file with keys of images to leave out, one per line, or JSON lines as in
            left_out.jsonl.
        rank: which of the processes this is (default: torchrun's).
        world_size: number of processes (default: torchrun's).
        num_workers: processes that take images apart (default: one per core).
        resume: continue the set in OUT.
        masker: finds the masks first, and writes them to the folder that --masks names; see
            cgn-augment masks. Each process finds those of its own shards.
        masking: settings of the masker and its masks.
        engine: local works in this process; ray has a task of a Ray cluster write each shard.
        ray: of the engine ray, what a task takes.
    """
    if masker is None and masking != MaskSettings():
        raise ArgumentError("--masking is for a masker: pass --masker too")
    writer = find_engine(engine, ray)
    if engine == "ray" and masker is not None:
        raise ArgumentError(
            "--masker finds masks in this process alone: find them with cgn-augment masks first, "
            "on several machines where it pays, and pass --masks"
        )
    if ray.gpus:
        raise ArgumentError("images are taken apart on CPUs: leave --ray.gpus out")
    keys = [] if exclude is None else read_keys(Path(exclude))
    with resumable():
        if masker is not None:
            # Report errors before finding masks, which takes long.
            if num_workers is not None:
                require_workers(num_workers)
            require_beside(out, images, config)
            if "://" not in out:
                require_place(Path(out).expanduser())
            if keys:
                find_photos(images, replace(config, masks=ALPHA)).require_keys(keys)
            counts = mask_photos(
                images,
                config,
                masker,
                masking,
                rank=rank,
                world_size=world_size,
                progress=True,
            )
            tell_masks(counts, config.masks)
        manifest = write_parts(
            images,
            out,
            config,
            exclude=keys,
            rank=rank,
            world_size=world_size,
            resume=resume,
            num_workers=num_workers,
            progress=True,
            engine=writer,
        )
    if manifest is not None:
        _tell_left_out(manifest)
    tell_written(out, manifest)
    if manifest is not None and not any(manifest.class_counts["usable"]):
        first = json.loads(Store(out).read(LEFT_OUT).splitlines()[0])
        print(
            f"warning: no image has an object that can be used: {first['key']} is left out as "
            f"{first['verdict']} ({first['why']})"
        )


def _tell_left_out(manifest: Manifest) -> None:
    """Prints how many images are left out, and each class that has none left."""
    counts = {verdict: sum(of_class) for verdict, of_class in manifest.class_counts.items()}
    usable = manifest.class_counts["usable"]
    left_out = [f"{num} {name}" for name, num in counts.items() if name != "usable" and num]
    if left_out:
        print(f"left out: {', '.join(left_out)}; {LEFT_OUT} lists them, 'parts info' draws some")
    classes = manifest.settings["classes"]
    for name, num in zip(classes, usable, strict=True):
        if num == 0 and any(usable):
            print(f"of the class {name} no object could be used")
    by_class = {
        name: {verdict: counts[label] for verdict, counts in manifest.class_counts.items()}
        for label, name in enumerate(classes)
        if usable[label]
    }
    for warning in find_failing(by_class):
        print(f"warning: {warning}")


def verify(out: str) -> None:
    """Checks names, counts, checksums, pictures and the index of a set, and says what to do.

    Args:
        out: folder or URL of the set.
    """
    check_set(out, verify_parts, PARTS)


def info(out: str, sheet: str = "parts.png", num: int = 12) -> None:
    """Prints what a set holds and what is left out, and draws a contact sheet.

    Args:
        out: folder or URL of the set.
        sheet: the picture to write.
        num: images per row.
    """
    check_picture(sheet)
    require_count("num", num)
    parts = PartSet.open(out, complete=False)
    for name, value in summarize_parts(parts).items():
        tell(name, value, 20)
    for warning in find_failing(parts.class_counts):
        tell("warning", warning, 20)
    tell("sheet", save_figure(draw_parts(parts, num), sheet), 20)


def review(out: str, page: str = "review.html", num: int | None = None) -> None:
    """Writes a page to review every cut-out in a browser and choose which to leave out.

    The page shows the worst of each class first. It saves a list of keys for --exclude of
    'cgn-augment parts'.

    Args:
        out: folder or URL of the set.
        page: the file to write, .html.
        num: most images per class, the worst ones (default: all).
    """
    check_page(page)
    parts = PartSet.open(out)
    with tqdm(total=len(parts), unit="image", desc="shrinking", delay=AT_WORK) as bar:
        path = write_review(parts, page, num=num, advance=bar.update)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, open it in a browser")
