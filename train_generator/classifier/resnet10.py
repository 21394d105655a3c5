"""A small residual network for small photographs; torchvision's smallest is too large for these."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock, conv1x1


class ResNet10(nn.Sequential):
    """A ResNet with one basic block per stage (He et al., CVPR 2016), for 32 to 96 pixels.

    Takes images (N, 3, H, W) float32 and returns scores (N, num_classes) float32. The first
    convolution is 3x3 with stride 2, without pooling after it. 1.2 million parameters at width 32.

    Args:
        width: channels of the first stage; doubled in each further one.
        num_classes: outputs of the last layer.

    Examples:
        >>> import torch
        >>> from train_generator.classifier.resnet10 import ResNet10
        >>> ResNet10(num_classes=8)(torch.zeros(2, 3, 48, 48)).shape
        torch.Size([2, 8])
    """

    def __init__(self, width: int = 32, num_classes: int = 1000) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
        )
        channels = width
        for stage in range(4):
            layers[f"layer{stage + 1}"] = _block(channels, width << stage)
            channels = width << stage
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels, num_classes)
        super().__init__(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _block(channels: int, planes: int) -> BasicBlock:
    """Returns a block that halves the image if its number of channels rises."""
    if channels == planes:
        return BasicBlock(channels, planes)
    shortcut = nn.Sequential(conv1x1(channels, planes, stride=2), nn.BatchNorm2d(planes))
    return BasicBlock(channels, planes, stride=2, downsample=shortcut)
