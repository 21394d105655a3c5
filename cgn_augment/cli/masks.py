"""The command `cgn-augment masks`."""

from __future__ import annotations

import sys

from cgn_augment.cli.options import settings_as_options
from cgn_augment.errors import ArgumentError
from cgn_augment.images.finding import name_some
from cgn_augment.masks.opening import KINDS
from cgn_augment.masks.settings import MaskSettings
from cgn_augment.masks.writing import MaskCounts, write_masks


@settings_as_options(MaskSettings)
def write(
    settings: MaskSettings,
    images: str,
    out: str,
    masker: str | None = None,
    split: str | None = None,
) -> None:
    """Finds the mask of each image in a folder and writes it as a PNG file of the same name.

    Masks that exist in OUT stay as they are: the same command continues after an interruption, and
    keeps masks that you corrected by hand. Use them with 'cgn-augment parts IMAGES PARTS --masks
    OUT'. The exit code is 1 if no image could be read.

    Args:
        settings: of the masks.
        images: a folder with images, in folders of classes or not; waterbirds:PATH,
            spawrious:PATH@BENCHMARK, urbancars:PATH or in9:PATH@VARIANT; or a table (.csv, .tsv,
            .jsonl, or table:FILE?path=NAME&label=NAME).
        out: another folder, for the masks.
        masker: a file model.onnx (U2-Net, ISNet, BiRefNet, ...), u2net.pth, or .safetensors of
            train-generator masker; torchvision/NAME; grabcut, which needs no weights; or the name
            of a bundled masker.
        split: split to take, if the images have splits: train (the default), val, test or all.
    """
    if masker is None:
        raise ArgumentError(f"say what finds the masks, --masker M: {KINDS}")
    try:
        counts = write_masks(images, out, masker, settings, split=split, progress=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on") from None
    tell(counts, out)
    if counts.unreadable and not counts.written + counts.kept:
        sys.exit(1)


def tell(counts: MaskCounts, out: str) -> None:
    """Prints how many masks were written, kept and left out."""
    kept = f", {counts.kept} were there" if counts.kept else ""
    print(f"{out}: {counts.written} masks written{kept}")
    if counts.unreadable:
        few = name_some(counts.unreadable, 3)
        print(f"{len(counts.unreadable)} images could not be read and have no mask: {few}")
