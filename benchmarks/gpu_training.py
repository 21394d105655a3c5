"""What counterfactuals add to a training step on a device, against as many prepared images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from gpu_setup import FEW, MOVED, NUM_CLASSES, Setup, can_prefetch, forever
from gpu_timing import Row, Way, measure_in_turns, synchronize
from torch import nn
from torchvision.models import resnet18, resnet50

from cgn_augment import BankSource, CounterfactualDataset, FreshSource, Interventions
from train_generator.classifier import MNISTClassifier

Train = Callable[[Any], None]


def trainer(setup: Setup) -> Train:
    """A step of ResNet-50: bfloat16 autocast, channels last, SGD with momentum."""
    torch.manual_seed(0)
    make = resnet18 if setup.sizes.small else resnet50
    model = make(num_classes=NUM_CLASSES).to(memory_format=torch.channels_last)
    return step_of(model, setup.device, autocast=True, memory_format=torch.channels_last)


def step_of(
    model: nn.Module, device: torch.device, *, autocast: bool, memory_format: torch.memory_format
) -> Train:
    """A training step as a plain loop has it; nothing in it waits for the device."""
    model = model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)

    def step(batch: Any) -> None:
        images, labels = batch
        images = images.to(device, non_blocking=True, memory_format=memory_format)
        labels = labels.to(device, non_blocking=True)
        torch.backends.cudnn.benchmark = True  # not for what fills banks, of many shapes
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        torch.backends.cudnn.benchmark = False

    return step


def on(train: Train, batches: Iterator[Any]) -> Callable[[], None]:
    """A step that trains on the next of the batches."""
    return lambda: train(next(batches))


def measure_training(setup: Setup, seconds: float) -> Row:
    """Measures training steps of ResNet-50; see the module `gpu`."""
    train, batch = trainer(setup), setup.sizes.batch
    depths = (0, 2) if can_prefetch() else (0,)
    ready = "as many images on the device"
    ways = {ready: Way(on(train, forever(setup.real(2 * batch, batches=2))))}
    real = setup.real(batch)

    def add(name: str, make: Callable[[], BankSource], share: float = 1.0, **settings: Any) -> None:
        """Adds a way at each depth, with a bank of its own, whose contents move on."""
        for depth in settings.get("depths", depths):
            source = make()
            batches = setup.stream(
                settings.get("real", real),
                source,
                prefetch=depth,
                transform=setup.transform(source),
            )
            base = settings.get("base", ready)
            ways[f"{name}, prefetch {depth}"] = Way(on(train, batches), base, share)

    bank, refresh = partial(setup.bank, image_size=setup.sizes.pixels), setup.sizes.refresh
    add("CGN, bank", lambda: bank(setup.cgn))
    add("parts, bank", lambda: bank(setup.parts))
    add("parts, bank float32", lambda: bank(setup.parts, storage="float32"), depths=(0,))
    add("parts, bank, placement", lambda: bank(setup.parts, placement=MOVED))
    add(f"parts, refresh {refresh}", lambda: bank(setup.parts, refresh=refresh))
    add(f"CGN bfloat16, refresh {refresh}", lambda: bank(setup.half_cgn, refresh=refresh), 0.5)
    few = max(1, refresh // 16)
    add(f"CGN bfloat16, graphs, refresh {few}", lambda: bank(setup.graphed_cgn, refresh=few))
    add(f"CGN bfloat16, refresh {few}", lambda: bank(setup.half_cgn, refresh=few))
    pinned = "as many images from pinned memory"
    ways[pinned] = Way(on(train, forever(setup.real(2 * batch, where="pinned", batches=2))))
    host = setup.real(batch, where="pinned")
    add("parts, bank, from pinned memory", lambda: bank(setup.parts), real=host, base=pinned)

    sizes = setup.sizes
    rows = measure_in_turns(
        ways,
        setup.device,
        seconds,
        num_steps=sizes.steps,
        warm_up=sizes.warm_up,
        least_rounds=sizes.rounds,
    )
    return {
        "what": f"a step of ResNet-50 on {2 * batch} images of {setup.sizes.pixels} pixels, half "
        "of them counterfactuals, bfloat16 autocast, channels last, SGD; ms, and ratios to as many "
        "images that lie ready",
        "depths": depths,
        "rows": rows,
    }


def measure_digits(setup: Setup, seconds: float) -> Row:
    """Measures steps of the classifier of digits, on a bank and on fresh images."""
    torch.manual_seed(0)
    device, batch = setup.device, setup.sizes.digits
    plain = torch.contiguous_format
    train = step_of(MNISTClassifier(), device, autocast=False, memory_format=plain)
    depths = (0, 2) if can_prefetch() else (0,)
    cgn = setup.digits_cgn
    rule = Interventions(shape=FEW, texture=FEW, background=FEW) if setup.sizes.small else None
    size = setup.sizes.bank if setup.sizes.small else 2000

    def digits(num: int) -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(4, num, 3, 32, 32, generator=generator) * 2 - 1
        labels = torch.randint(cgn.num_classes, (4, num), generator=generator)
        return list(zip(images.to(device), labels.to(device), strict=True))

    ready = "as many digits on the device"
    ways = {ready: Way(on(train, forever(digits(2 * batch))))}
    makers = {
        "bank": lambda: BankSource(cgn, size, interventions=rule),
        "bank uint8": lambda: BankSource(cgn, size, interventions=rule, storage="uint8"),
        "refresh 8": lambda: BankSource(cgn, size, min(8, size), interventions=rule),
        "fresh": lambda: FreshSource(cgn, rule, chunk=256),
    }
    for name, make in makers.items():
        for depth in depths:
            batches = setup.stream(digits(batch), make(), prefetch=depth)
            ways[f"{name}, prefetch {depth}"] = Way(on(train, batches), ready)
    num_steps = 1 if setup.sizes.small else 40
    rows = measure_in_turns(
        ways,
        device,
        seconds,
        num_steps=num_steps,
        warm_up=2 * setup.sizes.warm_up,
        least_rounds=setup.sizes.rounds,
    )
    return {
        "what": f"a step of the classifier of digits on {2 * batch} images of 32 pixels, half of "
        "them counterfactuals, float32; ms, and ratios to as many images that lie ready",
        "rows": rows,
    }


def measure_memory(setup: Setup) -> Row:
    """Takes steps of a stream that prefetches and refreshes, over epochs; memory must stay."""
    device, total = setup.device, setup.sizes.flat_steps
    epoch = max(4, total // 8)
    generator = torch.Generator().manual_seed(0)
    host = torch.rand(4, 64, 3, 32, 32, generator=generator) * 2 - 1
    host = host.pin_memory() if device.type == "cuda" else host
    real = [(images, torch.arange(64) % 10) for images in host]
    source = BankSource(setup.digits_cgn, 500 if not setup.sizes.small else 20, 8)
    depth = {"prefetch": 2} if can_prefetch() else {}
    stream = CounterfactualDataset(
        real * (epoch // 4), source, device=device, ratio=0.9, seed=1, **depth
    )
    kept = torch.zeros((), device=device)
    rows: list[Row] = []
    done = 0
    while done < total:
        for images, _ in stream:
            kept += images.mean()
            done += 1
        synchronize(device)
        row: Row = {"steps": done, "host_mib": psutil.Process().memory_info().rss / 2**20}
        if device.type == "cuda":
            row["allocated_mib"] = torch.cuda.memory_allocated(device) / 2**20
            row["reserved_mib"] = torch.cuda.memory_reserved(device) / 2**20
        rows.append(row)
    keys = [key for key in rows[0] if key != "steps"]
    second = rows[min(1, len(rows) - 1)]  # the first epoch fills the bank and the allocator
    growth = {key: rows[-1][key] - second[key] for key in keys}
    return {
        "what": "memory after each epoch of a stream with a refreshed bank; growth since the "
        "second epoch, MiB",
        "prefetch": depth.get("prefetch", 0),
        "growth": growth,
        "rows": rows,
    }
