"""The command `cgn-augment preview`: a picture of what a training loop will see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from cgn_augment.errors import ArgumentError
from cgn_augment.generators import bundled_generators
from cgn_augment.generators.drawing import default_interventions
from cgn_augment.images.datasets import (
    ImageSet,
    MapImages,
    evaluation_transform,
    open_images,
    training_transform,
)
from cgn_augment.images.imagenet_classes import find_classes
from cgn_augment.images.loading import LoadConfig
from cgn_augment.parts import Parts
from cgn_augment.parts.opening import load_mechanisms
from cgn_augment.pictures.sheets import check_picture
from cgn_augment.sources.bank import BankSource
from cgn_augment.sources.drawn import FreshSource
from cgn_augment.stream.arguments import Label
from cgn_augment.stream.dataset import CounterfactualDataset
from cgn_augment.stream.mixing import Mix
from cgn_augment.stream.preview import save_preview
from cgn_augment.stream.transforms import match_real

Channels = float | list[float] | Literal["imagenet"]

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def preview(
    data: str,
    cgn: str | None = None,
    out: str = "preview.png",
    image_size: int | None = None,
    mean: Channels = 0.5,
    std: Channels = 0.5,
    augment: bool = True,
    min_scale: float = 0.08,
    batch_size: int = 64,
    ratio: float | None = None,
    count: float | None = None,
    fraction: float | None = None,
    mix: Mix = "append",
    label: Label = "shape",
    class_map: dict[str, int | str | list[int | str]] | None = None,
    classes: int | list[str] | None = None,
    background: Literal["any", "other"] = "any",
    bank: int = 0,
    truncation: float | None = None,
    num: int = 10,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Draws what a training loop will see: real images and counterfactuals, with their labels.

    Args:
        data: your images: a folder with one folder per class, a table (.csv, .tsv, .jsonl), a
            benchmark's layout such as waterbirds:PATH, shards (a path or URL that ends in .tar) or
            hf:NAME@SPLIT.
        cgn: path of a .pth or .safetensors checkpoint, name of a bundled generator, or folder of
            parts with the same class names as the data.
        out: the picture to write: .png, .jpg, .webp, .pdf or .svg.
        image_size: height and width of training images; by default the generator's.
        mean: mean of your Normalize, for images in [0, 1]: a number, '[0.5, 0.4, 0.3]', or
            imagenet, which sets both. 0.5 and 0.5 give [-1, 1].
        std: likewise.
        augment: false shows real images without random crops and flips.
        min_scale: smallest share of an image that a random crop shows; 1 shows all of it.
        batch_size: real images per step; of fewer images, all.
        ratio: counterfactuals per real image; 1 if neither count nor fraction is given.
        count: counterfactuals per step, instead of ratio.
        fraction: share of the batch that is counterfactual, instead of ratio.
        mix: append puts counterfactuals after the real images, replace in the place of some, and
            separate into their own batch.
        label: the factor whose class is the label of a counterfactual; all gives three labels.
        class_map: 'label: class or classes of the generator', each by number or name: '{cat: [281,
            282], 1: golden_retriever}'.
        classes: names of the classes by label, or their number, if the data does not say.
        background: other takes backgrounds of any class but the shape's own, as
            Interventions(background="other") does.
        bank: size of a bank to draw from, as BankSource does; 0 draws each image anew.
        truncation: ImageNet CGN only: above 0 and at most 1; 1 by default.
        num: most images of each kind to show.
        seed: seed of the order and of every draw.
        device: where to draw, such as cpu or cuda.
    """
    if cgn is None:
        raise ArgumentError(
            "say which generator: --cgn PATH of a checkpoint, or one of the bundled "
            f"{', '.join(bundled_generators())}"
        )
    check_picture(out)  # before anything slow
    network = load_mechanisms(cgn, device=device, truncation=truncation)
    size = network.image_size if image_size is None else image_size
    scale = _scale(mean, std)
    transform = (
        training_transform(*scale, size, min_scale)
        if augment
        else evaluation_transform(*scale, size, crop=1.0)
    )
    images = open_images(data, transform, classes=classes, num_images=batch_size)
    if isinstance(network, Parts):
        labels = {name: y for y, name in enumerate(images.classes)}
        network = load_mechanisms(cgn, device=device, size=size, class_to_idx=labels)
    chosen = default_interventions(network)
    if background == "other":
        chosen = replace(chosen, background="other")
    if isinstance(images, MapImages):  # a small folder is shown whole
        batch_size = min(batch_size, len(images.dataset))  # type: ignore[arg-type]
    real, options = images.training(LoadConfig(batch_size, seed=seed))
    source: FreshSource | BankSource = FreshSource(network, chosen)
    if bank:
        source = BankSource(network, bank, interventions=chosen, seed=seed)
    stream = CounterfactualDataset(
        real,
        source,
        ratio=ratio,
        count=count,
        fraction=fraction,
        mix=mix,
        label=label,
        class_map=None if class_map is None else _read_map(class_map, images, network.num_classes),
        transform=match_real(*scale, size=size),
        **{"seed": seed, **options},
    )
    print(f"{out}: {save_preview(stream, out, num, images.classes)}")


def _scale(mean: Channels, std: Channels) -> tuple[list[float], list[float]]:
    """Returns mean and std of the three channels."""
    if "imagenet" in (mean, std):
        mean = std = "imagenet"
    given = {"mean": mean, "std": std}
    found = []
    for name, value in given.items():
        channels: Any = IMAGENET[name] if value == "imagenet" else value
        channels = channels if isinstance(channels, Sequence) else [channels] * 3
        if len(channels) != 3:
            raise ArgumentError(f"{name} must be one number or three, got {value}")
        found.append(channels)
    return found[0], found[1]


def _read_map(
    given: dict[str, int | str | list[int | str]], images: ImageSet, num_classes: int
) -> dict[int, list[int]]:
    """Returns the classes of each label; labels and classes may be given by name."""
    read = {}
    for label, classes in given.items():
        if label in images.classes:
            number = images.classes.index(label)
        elif label.isdecimal():
            number = int(label)
        else:
            raise ArgumentError(
                f"class_map: {label!r} is none of the classes of the images: "
                f"{', '.join(images.classes[:10])}"
            )
        read[number] = find_classes(classes, num_classes) or []
    return read
