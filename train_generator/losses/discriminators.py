"""The discriminators of the small CGN: the two of the paper, and this project's own.

All are conditional: they see the class together with the image, and so also judge whether the two
fit. Scores are unbounded. `LinearDiscriminator` and `ConvDiscriminator` are those of Sauer and
Geiger, ICLR 2021, appendix on MNIST. Initial weights are PyTorch's own, from its global generator;
`initialize` draws those of the paper's recipe.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import check_classes
from train_generator.losses.functional import require_images

IMAGE_SIZE = 32
SLOPE = 0.2


class LinearDiscriminator(nn.Module):
    """Fully connected layers on the pixels and an embedding of the class.

    Used for the colored and double colored variants. In training mode, dropout draws from the
    device's global generator; wrap a step in `cgn_augment.functional.isolated_rng` to make it
    repeatable.

    Args:
        num_classes: number of classes.
        width: units of each of the three hidden layers.
        embedding_dim: length of a class embedding.
        dropout: share of units that the second and third hidden layer drop, in [0, 1).

    Raises:
        ArgumentError: a number cannot be used.

    Examples:
        >>> import torch
        >>> from train_generator.losses.discriminators import LinearDiscriminator
        >>> discriminator = LinearDiscriminator()
        >>> discriminator(torch.zeros(4, 3, 32, 32), torch.arange(4)).shape
        torch.Size([4, 1])
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 512,
        embedding_dim: int = 10,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        _require_counts(num_classes=num_classes, width=width, embedding_dim=embedding_dim)
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout must be in [0, 1), got {dropout}")
        self.label_embedding = nn.Embedding(num_classes, embedding_dim)
        self.layers = nn.Sequential(
            nn.Linear(3 * IMAGE_SIZE * IMAGE_SIZE + embedding_dim, width),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(width, width),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
        )

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        """Scores each image, given its class.

        Args:
            images: (B, 3, 32, 32) float32 in [-1, 1].
            y: (B,) integer classes.

        Returns:
            (B, 1) float32 scores; LSGAN trains them towards 1 for real, 0 for generated images.

        Raises:
            ArgumentError: images or classes have a wrong shape, or a class does not exist.
            ArgumentTypeError: images are not floating point, or classes are not integers.
        """
        y = _check_arguments(images, y, self.label_embedding.num_embeddings)
        scores: Tensor = self.layers(torch.cat([images.flatten(1), self.label_embedding(y)], dim=1))
        return scores


class ConvDiscriminator(nn.Module):
    """Four convolutions on the image and a map that embeds the class.

    Used for the wildlife variant. The map is one more channel, with a number per pixel and class.
    The convolutions have no padding: 32 pixels become 30, 28, 13 and 5. The average pooling of 3
    then keeps only the upper left 3x3 of those 5x5, so a score depends on the upper left 22x22
    pixels of the image and, apart from batch statistics in training mode, on nothing else.

    Args:
        num_classes: number of classes.
        width: channels of the first convolution; the others have 2, 4 and 4 times as many.

    Raises:
        ArgumentError: a number cannot be used.

    Examples:
        >>> import torch
        >>> from train_generator.losses.discriminators import ConvDiscriminator
        >>> discriminator = ConvDiscriminator()
        >>> discriminator(torch.zeros(4, 3, 32, 32), torch.arange(4)).shape
        torch.Size([4, 1])
    """

    def __init__(self, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        _require_counts(num_classes=num_classes, width=width)
        self.label_embedding = nn.Embedding(num_classes, IMAGE_SIZE * IMAGE_SIZE)
        self.layers = nn.Sequential(
            *_conv_block(4, width, kernel_size=3, stride=1),
            *_conv_block(width, 2 * width, kernel_size=3, stride=1),
            *_conv_block(2 * width, 4 * width, kernel_size=4, stride=2),
            *_conv_block(4 * width, 4 * width, kernel_size=4, stride=2),
            nn.AvgPool2d(3),
            nn.Conv2d(4 * width, 1, kernel_size=1),
            nn.Flatten(),
        )

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        """Scores each image, given its class; see `LinearDiscriminator.forward`."""
        y = _check_arguments(images, y, self.label_embedding.num_embeddings)
        class_map = self.label_embedding(y).view(-1, 1, IMAGE_SIZE, IMAGE_SIZE)
        scores: Tensor = self.layers(torch.cat([images, class_map], dim=1))
        return scores


class PatchDiscriminator(nn.Module):
    """Judges textures at each place, and the whole image, with the class by projection.

    Spectrally normalised (Miyato et al., Spectral Normalization for Generative Adversarial
    Networks, ICLR 2018) and without batch statistics. A class enters as the inner product of its
    embedding with the features (Miyato and Koyama, cGANs with Projection Discriminator, ICLR 2018).

    Args:
        channels: 3 for images, 1 for masks.
        num_classes: number of classes.
        width: channels of the first convolution; the others have twice as many.
        image_size: height and width of the images: 32, 64, 128, ...

    Raises:
        ArgumentError: a number cannot be used.

    Examples:
        >>> import torch
        >>> from train_generator.losses.discriminators import PatchDiscriminator
        >>> patches, whole = PatchDiscriminator()(torch.zeros(4, 3, 32, 32), torch.arange(4))
        >>> patches.shape, whole.shape
        (torch.Size([4, 64]), torch.Size([4, 1]))
    """

    def __init__(
        self,
        channels: int = 3,
        num_classes: int = 10,
        width: int = 48,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__()
        _require_counts(channels=channels, num_classes=num_classes, width=width)
        if image_size < IMAGE_SIZE or image_size & (image_size - 1):
            raise ArgumentError(f"image_size must be 32, 64, 128, ..., got {image_size}")
        self.channels, self.num_classes, self.image_size = channels, num_classes, image_size
        num_halvings = image_size.bit_length() - IMAGE_SIZE.bit_length() + 1
        self.patches = nn.Sequential(
            *_halving(channels, width),
            *_halving(width, 2 * width),
            spectral_norm(nn.Conv2d(2 * width, 2 * width, 3, padding=1)),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.whole = nn.Sequential(
            *(part for _ in range(num_halvings) for part in _halving(2 * width, 2 * width)),
            nn.Flatten(),
            spectral_norm(nn.Linear(2 * width * 16, 128)),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.score_patches = spectral_norm(nn.Conv2d(2 * width, 1, 1))
        self.score_whole = spectral_norm(nn.Linear(128, 1))
        self.patch_classes = spectral_norm(nn.Embedding(num_classes, 2 * width))
        self.whole_classes = spectral_norm(nn.Embedding(num_classes, 128))

    def forward(self, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Scores each place at a quarter of the resolution, and each image, given its class.

        Arguments and errors are those of `LinearDiscriminator.forward`, for images (B, channels,
        image_size, image_size).

        Returns:
            (B, (image_size / 4)²) and (B, 1) float32 scores.
        """
        y = _check_arguments(images, y, self.num_classes, self.channels, self.image_size)
        features = self.patches(images)
        fits = torch.einsum("bchw,bc->bhw", features, self.patch_classes(y))
        patches = self.score_patches(features)[:, 0] + fits
        features = self.whole(features)
        fits = (features * self.whole_classes(y)).sum(dim=1, keepdim=True)
        return patches.flatten(1), self.score_whole(features) + fits


def _halving(dim_in: int, dim_out: int) -> list[nn.Module]:
    convolution = spectral_norm(nn.Conv2d(dim_in, dim_out, 4, stride=2, padding=1))
    return [convolution, nn.LeakyReLU(SLOPE, inplace=True)]


def _conv_block(dim_in: int, dim_out: int, kernel_size: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(dim_in, dim_out, kernel_size, stride, bias=False),
        nn.BatchNorm2d(dim_out),
        nn.LeakyReLU(SLOPE, inplace=True),
    ]


def _require_counts(**counts: int) -> None:
    for name, count in counts.items():
        require_count(name, count)


def _check_arguments(
    images: Tensor, y: Tensor, num_classes: int, channels: int = 3, size: int = IMAGE_SIZE
) -> Tensor:
    """Returns the classes as int64 on the images' device."""
    require_images(images, channels, size=size)
    check_classes(y, len(images), num_classes, "images")
    return y.to(images.device).long()
