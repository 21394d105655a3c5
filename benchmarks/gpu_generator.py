"""Fresh images of the ImageNet CGN a second, against the published way on the same device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytorch_pretrained_biggan as package
import torch
from gpu_setup import TINY
from gpu_timing import Row, describe, peak_gib, spread, tidy, time_calls
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cgn_augment.functional import compose
from cgn_augment.generators import BigGANConfig, ImageNetCGN, U2Net
from cgn_augment.generators.biggan import EPSILON


class Published(nn.Module):
    """Four BigGANs with spectral norms at every call, and U2-Net on the images of two."""

    def __init__(self, sizes: BigGANConfig, unet_width: int) -> None:
        super().__init__()
        config = package.BigGANConfig(
            output_dim=sizes.image_size,
            z_dim=sizes.noise_dim,
            class_embed_dim=sizes.noise_dim,
            channel_width=sizes.channel_width,
            num_classes=sizes.num_classes,
            layers=list(sizes.layers),
            attention_layer_position=sizes.attention_at,
            eps=EPSILON,
        )
        self.biggans = nn.ModuleList(package.BigGAN(config) for _ in range(4))
        self.u2net = U2Net(unet_width)
        self.num_classes = sizes.num_classes
        for biggan in self.biggans:
            nn.init.ones_(biggan.generator.bn.weight)  # the package leaves these uninitialised
            nn.init.zeros_(biggan.generator.bn.bias)

    def forward(self, noise: Tensor, y: Tensor) -> Tensor:
        """Draws images: what the release's generation does for them."""
        one_hot = nn.functional.one_hot(y, self.num_classes).to(noise)
        _, shape, texture, background = (biggan(noise, one_hot, 1.0) for biggan in self.biggans)
        mask = self.u2net(shape).clamp(1e-4, 0.9999)
        self.u2net(background)  # for a loss of the training, computed and not used
        return compose(mask, texture, background)


def draw(cgn: ImageNetCGN, noise: Tensor, y: Tensor) -> Tensor:
    """Draws images as a source does."""
    mask, texture, background = (
        each(noise, y) for each in (cgn.shape, cgn.texture, cgn.background)
    )
    return compose(mask.float(), texture.float(), background.float())


def captured(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Records what a function launches, and returns what replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


@torch.no_grad()
def measure_generator(
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    batch_sizes: Sequence[int],
    seconds: float,
    small: bool,
) -> list[dict[str, Any]]:
    """Measures each way at each batch size; a way that fails leaves its error.

    Returns:
        Rows with `way` ("published", "eager", "graphs"), `dtype`, `batch`, `images_per_second`,
        `flops_per_image`, `tflops` and `peak_bytes`.
    """
    torch.manual_seed(0)
    sizes = TINY if small else BigGANConfig()
    width = 4 if small else 64
    cgn = ImageNetCGN(sizes, unet_width=width).freeze().to(device).requires_grad_(False)
    published = Published(sizes, width).eval().requires_grad_(False).to(device)
    noise, y = torch.randn(1, sizes.noise_dim).to(device), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        draw(cgn, noise, y.to(device))
    flops = counter.get_total_flops()
    names = ("published", "eager", "graphs") if device.type == "cuda" else ("published", "eager")
    each = seconds / (len(names) * len(dtypes) * len(batch_sizes))
    rows: list[Row] = []
    for dtype in dtypes:
        cgn, published = cgn.to(dtype), published.to(dtype)
        for batch in batch_sizes:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(batch, sizes.noise_dim, generator=generator).to(device, dtype)
            y = torch.randint(sizes.num_classes, (batch,), generator=generator).to(device)
            for name in names:
                tidy(device)
                row: Row = {"way": name, "dtype": dtype, "batch": batch, "flops_per_image": flops}
                try:
                    call = published if name == "published" else partial(draw, cgn)
                    run = partial(call, noise, y)
                    way = captured(run) if name == "graphs" else run
                    taken = spread(time_calls(way, device, each, least=3, most=60))["median"]
                    row["images_per_second"] = batch / taken
                    row["tflops"] = flops * batch / taken / 1e12
                    peak = peak_gib(device)
                    row["peak_bytes"] = None if peak is None else int(peak * 2**30)
                except Exception as error:
                    row["error"] = describe(error)
                rows.append(row)
    return rows
