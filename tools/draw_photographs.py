"""Draws the README's picture: four photographs, their parts, and what is recombined from them.

    python -m pip install '.[fill]' scikit-image && python tools/draw_photographs.py

The photographs come with scikit-image and are free to use, as its `skimage.data` says of each:
Chelsea the cat (Stefan van der Walt, CC0), a cup of coffee (Rachel Michetti, CC0), the astronaut
Eileen Collins (NASA, public domain) and a Falcon 9 (SpaceX, public domain).
GrabCut finds the cup's mask, and fits the others, drawn by hand, to the photographs' edges.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage import data
from torch import Tensor

from cgn_augment import Placement, load_parts
from cgn_augment.functional import compose
from cgn_augment.generators.drawing import run_mechanisms
from cgn_augment.masks.refine import close_holes, find_by_grabcut, keep_largest, refine_grabcut
from cgn_augment.parts.config import PartConfig
from cgn_augment.parts.fitting import fit_background
from cgn_augment.parts.writing import write_parts
from cgn_augment.pictures.sheets import draw_sheet, save_figure

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "photographs.jpg"
SIZE = 224

# Corners in permille of the photograph's width, right and down.
OUTLINES = {
    "cat": "90,0 840,0 815,140 790,190 812,300 770,400 735,480 710,570 640,620 510,664 60,664 "
    "80,510 50,360 70,100",
    "astronaut": "300,100 330,50 420,25 520,30 580,90 590,190 550,250 600,350 620,480 680,510 "
    "710,660 810,670 900,700 960,800 1000,900 1000,1000 40,1000 50,840 45,660 90,510 215,430 "
    "225,340 270,290 355,290 355,255 310,230",
    "rocket": "484,250 490,215 498,198 508,205 516,245 522,640 480,640",
}
PHOTOS = {"cat": "chelsea", "cup": "coffee", "astronaut": "astronaut", "rocket": "rocket"}
CROPPED = {"cat": 0.8}
"""Where along its width a photograph is cropped to a square, 0 to 1, whose object fills it."""


def draw_mask(name: str, photo: np.ndarray) -> np.ndarray:
    """Returns the object of a photograph (H, W, 3) uint8 as a mask (H, W) uint8."""
    height, width = photo.shape[:2]
    if name not in OUTLINES:
        mask = find_by_grabcut(photo)
    else:
        drawn = Image.new("L", (width, height))
        corners = [corner.split(",") for corner in OUTLINES[name].split()]
        scaled = [(int(x) * width / 1000, int(y) * width / 1000) for x, y in corners]
        ImageDraw.Draw(drawn).polygon(scaled, 255)
        mask = np.array(drawn, dtype=np.float32) / 255
        if name != "rocket":  # which is as thin as the edge that GrabCut decides on
            mask = refine_grabcut(photo, mask)
    return (255 * close_holes(keep_largest(mask))).astype(np.uint8)


def write_photographs(folder: Path) -> None:
    """Writes photographs and masks, each in a folder of its class."""
    for name, called in PHOTOS.items():
        photo = np.ascontiguousarray(getattr(data, called)()[..., :3])
        mask = draw_mask(name, photo)[..., None]
        for kind, image in (("photos", photo), ("masks", mask.repeat(3, axis=2))):
            path = folder / kind / name / "1.png"
            path.parent.mkdir(parents=True)
            picture = Image.fromarray(image)
            if name in CROPPED:
                left = round(CROPPED[name] * (picture.width - picture.height))
                picture = picture.crop((left, 0, left + picture.height, picture.height))
            picture.save(path)


def read(path: Path) -> Tensor:
    """Returns the middle of a picture, (1, 3, SIZE, SIZE) float32 in [-1, 1]."""
    pixels = np.array(Image.open(path).convert("RGB"))
    square = fit_background(torch.from_numpy(pixels).permute(2, 0, 1), 0.5, SIZE)
    return square[None] / 127.5 - 1


def main() -> None:
    """Writes the picture."""
    names, placement = list(PHOTOS), Placement(flip=1.0)
    rows = {}
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_photographs(folder)
        config = PartConfig(masks=f"{folder}/masks", max_area=0.9, max_hole=1.0)
        photos, out = f"{folder}/photos", f"{folder}/parts"
        write_parts(photos, out, config, num_workers=0, progress=False)
        parts = load_parts(out, SIZE, class_to_idx={name: y for y, name in enumerate(names)})
        for y, name in enumerate(names):
            others = [*names[y + 1 :], *names[:y]]
            masks, objects, backgrounds = {}, {}, {}
            for other in [name, *others]:
                classes = torch.tensor([[y], [y], [names.index(other)]])
                generator = torch.Generator().manual_seed(0)
                drawn = run_mechanisms(parts, classes, generator, 1, 1, tied=True)
                masks[other], objects[other], backgrounds[other] = drawn
            mask, whole = masks[name], objects[name]
            moves = placement.draw(1, torch.Generator().manual_seed(y))
            moved = placement.move(mask, whole, moves)
            rows[name] = torch.cat(
                [
                    *(read(folder / kind / name / "1.png") for kind in ("photos", "masks")),
                    compose(mask, whole, torch.full_like(whole, 0.9)),
                    backgrounds[name],
                    *(compose(mask, whole, backgrounds[other]) for other in others),
                    compose(*moved, backgrounds[others[y % 3]]),
                ]
            )
    captions = ["photograph", "mask", "object", "background"]
    captions += ["counterfactual"] * 3 + ["mirrored"]
    figure = draw_sheet(rows, {names[-1]: captions})
    print(save_figure(figure, sys.argv[1] if len(sys.argv) > 1 else PICTURE))


if __name__ == "__main__":
    main()
