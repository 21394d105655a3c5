"""Generators as published, for the baselines of benchmarks and tests."""

from __future__ import annotations

from typing import Any

import pytorch_pretrained_biggan as package
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.functional import compose
from cgn_augment.generators import BigGANConfig, SmallCGN, U2Net
from cgn_augment.generators.biggan import EPSILON
from cgn_augment.generators.upconv import UpConv2d

MECHANISMS = ("biggan_GT", "f_shape", "f_text", "f_bg")


class PlainUpConv2d(UpConv2d):
    """Upsamples, then convolves."""

    def forward(self, images: Tensor) -> Tensor:
        """Takes images (N, dim_in, H, W) to (N, dim_out, 2 H, 2 W)."""
        return F.conv2d(F.interpolate(images, scale_factor=2), self.weight, padding=1)


def use_published_layers(cgn: SmallCGN) -> SmallCGN:
    """Makes a network compute as the published one does, in place; weights and names stay.

    A frozen one stays in eval mode, and loses its fast form.
    """
    cgn._hash = None
    for module in cgn.modules():
        if isinstance(module, UpConv2d):
            module.__class__ = PlainUpConv2d
    return cgn


class PublishedCGN(nn.Module):
    """The networks of ImageNet as the released code holds them.

    Random weights; random statistics, too, and spectral norms that training would have found, so
    that the images are neither all black nor beyond what half a precision holds.
    """

    def __init__(self, sizes: BigGANConfig | None = None, unet_width: int = 64) -> None:
        super().__init__()
        sizes = sizes or BigGANConfig()
        config = package.BigGANConfig(
            output_dim=sizes.image_size,
            z_dim=sizes.noise_dim,
            class_embed_dim=sizes.noise_dim,
            channel_width=sizes.channel_width,
            num_classes=sizes.num_classes,
            layers=list(sizes.layers),
            attention_layer_position=sizes.attention_at,
            eps=EPSILON,
            n_stats=sizes.num_statistics,
        )
        self.num_classes = sizes.num_classes
        for name in MECHANISMS:
            self.add_module(name, package.BigGAN(config))
        self.u2net = U2Net(unet_width)
        for part in self.modules():
            if hasattr(part, "weight_orig"):
                _settle(part)
            elif isinstance(part, package.model.BigGANBatchNorm):
                part.running_means.normal_(0, 0.1)
                part.running_vars.uniform_(0.5, 2)
                if not part.conditional:  # the package leaves these two uninitialised
                    nn.init.ones_(part.weight)
                    nn.init.zeros_(part.bias)
            elif isinstance(part, package.model.SelfAttn):
                nn.init.constant_(part.gamma, 0.5)  # at 0, as it begins, attention does nothing
        _spread(self.u2net)
        self.eval().requires_grad_(False)

    def forward(self, noise: Tensor, y: Tensor, truncation: float = 1.0) -> Tensor:
        """Draws images: what the release's generation does for each."""
        one_hot = F.one_hot(y, self.num_classes).to(noise)
        drawn = {name: self.get_submodule(name)(noise, one_hot, truncation) for name in MECHANISMS}
        mask = self.u2net(drawn["f_shape"]).clamp(1e-4, 0.9999)
        self.u2net(drawn["f_bg"])  # for the background loss, computed and not used
        return compose(mask, drawn["f_text"], drawn["f_bg"])


@torch.no_grad()
def _spread(u2net: U2Net) -> None:
    """Lets signals reach the mask, which new weights leave at 0.5 everywhere."""
    for part in u2net.modules():
        if isinstance(part, nn.Conv2d) and part.weight.shape[2] == 3:
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    size = 64
    images = torch.rand(1, 3, size, size) * 2 - 1
    spread = torch.logit(u2net.double().eval()(images.double()), eps=1e-9).std()
    u2net.float().outconv.weight.div_(spread.float())


@torch.no_grad()
def _settle(part: Any) -> None:
    """Three power iterations for the singular vectors of a spectral norm."""
    matrix = part.weight_orig.flatten(1)
    for _ in range(3):
        part.weight_v.copy_(F.normalize(matrix.t() @ part.weight_u, dim=0, eps=EPSILON))
        part.weight_u.copy_(F.normalize(matrix @ part.weight_v, dim=0, eps=EPSILON))
