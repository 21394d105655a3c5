"""Fresh images of the ImageNet CGN per second, for each way of drawing them on one device."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from gpu_timing import Row, tidy, time_calls
from published_layers import PublishedCGN
from torch import Tensor

from cgn_augment.functional import compose
from cgn_augment.generators import BigGANConfig, ImageNetCGN
from cgn_augment.sources.cost import count_flops_of

TINY = BigGANConfig(
    10,
    8,
    channel_width=4,
    layers=((False, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)),
    attention_at=2,
)
TIMING = {"warm_up": 4, "least": 3, "most": 60}
"""Calls before any is timed, of which the second records a graph, and calls that are timed."""

Run = Callable[[Tensor, Tensor], Tensor]


def draw(cgn: ImageNetCGN, noise: Tensor, y: Tensor) -> Tensor:
    """Draws images as a source does."""
    return compose(cgn.shape(noise, y), cgn.texture(noise, y), cgn.background(noise, y))


def take_weights(published: PublishedCGN, sizes: BigGANConfig, unet_width: int) -> ImageNetCGN:
    """Makes our network of the published one's weights, frozen and folded."""
    cgn = ImageNetCGN(sizes, unet_width=unet_width)
    state = {k: v for k, v in published.state_dict().items() if not k.startswith("biggan_GT.")}
    cgn.load_state_dict(state)
    return cgn.freeze()


@torch.no_grad()
def measure_generator(
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    batch_sizes: Sequence[int],
    seconds: float,
    small: bool,
) -> list[Row]:
    """Measures each way at each dtype and batch size; a way that fails leaves its error.

    Args:
        device: where.
        dtypes: of the weights.
        batch_sizes: images drawn at once.
        seconds: for all of it, shared out evenly; each takes a few calls at least.
        small: tiny layers, for a run that only shows that it works.

    Returns:
        Rows with `way` ("published", "eager", and on a GPU "graphs" and, at the last
        dtype and batch size alone, since it takes its time, "compile"),
        `dtype`, `batch`, `images_per_second`, `flops_per_image` of that way, `tflops`,
        `peak_bytes` (None without a GPU) and `difference` (the largest from float32, drawn the
        published way of the same noise), or `error` with a reason; on a GPU the row of "eager" at
        the last batch size has its slowest `kernels`.
    """
    torch.manual_seed(0)
    sizes, width = (TINY, 4) if small else (BigGANConfig(), 64)
    with device:  # where first weights are drawn faster
        theirs = PublishedCGN(sizes, width).to(device)
        ours = take_weights(theirs, sizes, width).to(device)
    names = ("published", "eager", "graphs", "compile")[: 4 if device.type == "cuda" else 2]
    each = seconds / (len(names) * len(dtypes) * len(batch_sizes))
    noise, y = (
        ours.draw_noise(1, torch.Generator().manual_seed(0)),
        torch.tensor([0], device=device),
    )
    expected = theirs(noise, y)
    flops: dict[str, int] = {}
    rows: list[Row] = []
    for dtype, batch in itertools.product(dtypes, batch_sizes):
        cgn, published = copy.deepcopy(ours).to(dtype), copy.deepcopy(theirs).to(dtype)
        inputs = noise.expand(batch, -1).to(dtype).contiguous(), y.expand(batch).contiguous()
        at_last = (dtype, batch) == (dtypes[-1], batch_sizes[-1])
        for name in names if at_last else names[:3]:
            row: Row = {"way": name, "dtype": dtype, "batch": batch}
            rows.append(row)
            tidy(device)
            try:
                cgn.use_graphs(name in ("graphs", "compile"), compiled=name == "compile")
                run: Run = published if name == "published" else partial(draw, cgn)
                if name not in flops:
                    flops[name] = count_flops_of(partial(run, noise.to(dtype), y))
                row["difference"] = (run(*inputs)[:1].float() - expected).abs().max().item()
                taken = time_calls(partial(run, *inputs), device, each, **TIMING)
                row["images_per_second"] = batch / statistics.median(taken)
                row["flops_per_image"] = flops[name]
                row["tflops"] = flops[name] * row["images_per_second"] / 1e12
                row["peak_bytes"] = (
                    torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
                )
                if device.type == "cuda" and name == "eager" and batch == batch_sizes[-1]:
                    row["kernels"] = list_kernels(partial(run, *inputs))
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:300]
    return rows


def list_kernels(call: Callable[[], object], num: int = 15) -> list[Row]:
    """Returns the kernels of a GPU that a call spends most time in, in milliseconds."""
    with torch.profiler.profile() as profiler:
        call()
        torch.cuda.synchronize()
    found = sorted(profiler.key_averages(), key=lambda each: -each.self_device_time_total)[:num]
    return [
        {"name": each.key[:80], "calls": each.count, "ms": each.self_device_time_total / 1e3}
        for each in found
    ]
