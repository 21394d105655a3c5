"""Takes a trained generator into the package: python tools/bundle_generator.py RUN NAME.

RUN is the folder of a finished `train-generator small`; its generator, card and picture become
NAME.safetensors, NAME.md and NAME.png.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from cgn_augment import load_cgn
from cgn_augment.generators.checkpoint import WEIGHTS
from train_generator.training.machine import CGN_FILE


def bundle(run: Path, name: str, weights: Path = WEIGHTS) -> None:
    """Copies the three files; the card gets the name in place of the file's."""
    source = run / CGN_FILE
    fingerprint = load_cgn(source).fingerprint
    card = source.with_suffix(".md").read_text()
    if fingerprint not in card:
        raise SystemExit(f"the card in {run} is of another generator than {fingerprint}")
    weights.mkdir(exist_ok=True)
    shutil.copyfile(source, weights / f"{name}.safetensors")
    shutil.copyfile(source.with_suffix(".png"), weights / f"{name}.png")
    old = source.stem
    renamed = card.replace(f"# {old}\n", f"# {name}\n", 1).replace(f"({old}.png)", f"({name}.png)")
    (weights / f"{name}.md").write_text(renamed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    bundle(arguments.run, arguments.name)
