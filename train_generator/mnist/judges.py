"""The judges of a generator: small CNNs that know real shapes, textures and backgrounds.

The shape judge is trained on MNIST's clean binary digits and comes with the package. The judges of
textures and backgrounds learn the true ones of a variant, which may be the user's own, so they are
trained when needed (see `train_generator.mnist.appearance`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn_augment.checks import require_count
from cgn_augment.errors import ArgumentError
from cgn_augment.functional import isolated_rng, roll_images
from train_generator.mnist.digits import Digits, load_digits
from train_generator.mnist.weights import read_weights, write_weights
from train_generator.training.alone import train_alone

NUM_CLASSES = 10
SHAPE_JUDGE_FILE = Path(__file__).with_name("shape_judge.safetensors")

_MAX_SHIFT = 2  # pixels
_CHUNK = 500  # images judged at once; limits the memory


@dataclass(frozen=True)
class JudgeConfig:
    """Settings for training a judge with Adam; the learning rate rises and falls once.

    Attributes:
        num_steps: number of batches.
        batch_size: images per batch.
        learning_rate: the highest learning rate.
        seed: seed of the first weights and of every draw.

    Raises:
        ArgumentError: a value cannot be used.
    """

    num_steps: int = 1560
    batch_size: int = 128
    learning_rate: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_steps", 1), ("batch_size", 2), ("seed", 0)):
            require_count(name, getattr(self, name), least)
        if not 0 < self.learning_rate < 1:
            raise ArgumentError(f"learning_rate must be in (0, 1), got {self.learning_rate}")


def convolve(num_in: int, num_out: int, size: int, **options: Any) -> list[nn.Module]:
    """Returns a convolution with batch normalisation and ReLU."""
    convolution = nn.Conv2d(num_in, num_out, size, bias=False, **options)
    return [convolution, nn.BatchNorm2d(num_out), nn.ReLU()]


class ShapeJudge(nn.Module):
    """Recognises the digit in a binary mask. 69 thousand parameters.

    Takes masks (B, 1, 32, 32) float32 of zeros and ones and returns (B, 10) float32 scores.

    Examples:
        >>> import torch
        >>> from train_generator.mnist import ShapeJudge
        >>> ShapeJudge()(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolve(1, 16, 5, stride=2, padding=2),
            *convolve(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            *convolve(32, 48, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48 * 4 * 4, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, NUM_CLASSES)

    def features(self, masks: Tensor) -> Tensor:
        """Returns the last layer's input (B, 64) float32, 0 or more, for masks (B, 1, 32, 32).

        Args:
            masks: (B, 1, 32, 32) float32 of zeros and ones.
        """
        features: Tensor = self.layers(masks)
        return features

    def forward(self, masks: Tensor) -> Tensor:
        """Returns scores (B, 10) of masks (B, 1, 32, 32).

        Args:
            masks: (B, 1, 32, 32) float32 of zeros and ones.
        """
        scores: Tensor = self.head(self.features(masks))
        return scores


def train_shape_judge(
    config: JudgeConfig | None = None, *, num_train: int | None = None, progress: bool = False
) -> ShapeJudge:
    """Trains a shape judge on MNIST's clean binary digits, moved by up to two pixels.

    The default settings take four epochs, one to two minutes on one CPU core.

    Args:
        config: settings.
        num_train: digits of the training split; None takes all 50 000.
        progress: shows a bar on standard error.

    Returns:
        The judge in eval mode, without gradients.

    Examples:
        >>> from train_generator.mnist import JudgeConfig, train_shape_judge
        >>> judge = train_shape_judge(JudgeConfig(num_steps=2, batch_size=8), num_train=32)
        >>> judge.training
        False
    """
    config = config or JudgeConfig()
    digits = load_digits("train", num_train)
    with isolated_rng(config.seed, torch.device("cpu")):
        judge = ShapeJudge()
    fit(judge, draw_digits(digits, config), config, progress=progress)
    return judge


def draw_digits(digits: Digits, config: JudgeConfig) -> Iterable[tuple[Tensor, Tensor]]:
    """Yields batches of digits without end: epochs in random order, each digit moved at random."""
    generator = torch.Generator().manual_seed(config.seed)
    size = min(config.batch_size, len(digits))
    while True:
        order = torch.randperm(len(digits), generator=generator)
        for chosen in torch.split(order[: len(order) // size * size], size):
            offsets = torch.randint(-_MAX_SHIFT, _MAX_SHIFT + 1, (size, 2), generator=generator)
            yield roll_images(digits.masks[chosen].float(), offsets), digits.labels[chosen]


def fit(
    judge: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: JudgeConfig,
    *,
    progress: bool = False,
) -> None:
    """Trains a judge for `config.num_steps` batches of images and labels, and freezes it."""
    optimizer = torch.optim.Adam(judge.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.num_steps + 1
    )
    drawn = iter(batches)

    def loss() -> Tensor:
        images, labels = next(drawn)
        return F.cross_entropy(judge(images), labels)

    judge.train()
    train_alone(
        "training a judge", judge, config.num_steps, optimizer, loss, schedule, progress=progress
    )
    judge.eval().requires_grad_(False)


@torch.no_grad()
def predict(judge: nn.Module, images: Tensor) -> Tensor:
    """Returns the classes (N,) int64 that a judge sees in images or masks (N, C, 32, 32).

    Args:
        judge: a judge in eval mode.
        images: (N, C, 32, 32) float32.

    Examples:
        >>> import torch
        >>> from train_generator.mnist import load_shape_judge, predict
        >>> stroke = torch.zeros(1, 1, 32, 32)
        >>> stroke[..., 6:26, 15:18] = 1
        >>> predict(load_shape_judge(), stroke).item()
        1
    """
    return torch.cat([judge(part).argmax(1) for part in torch.split(images, _CHUNK)])


@torch.no_grad()
def extract_features(judge: ShapeJudge, masks: Tensor) -> Tensor:
    """Returns the judge's features (N, 64) float32 of masks (N, 1, 32, 32)."""
    return torch.cat([judge.features(part) for part in torch.split(masks, _CHUNK)])


def judge_accuracy(judge: ShapeJudge, num_test: int | None = None) -> float:
    """Returns the share of clean test digits that a judge recognises, in [0, 1].

    Args:
        judge: the judge.
        num_test: number of test digits; None takes all 10 000.

    Examples:
        >>> from train_generator.mnist import judge_accuracy, load_shape_judge
        >>> judge_accuracy(load_shape_judge(), num_test=200) > 0.95
        True
    """
    digits = load_digits("test", num_test)
    return float((predict(judge, digits.masks.float()) == digits.labels).double().mean())


def save_shape_judge(judge: ShapeJudge, path: Path, config: JudgeConfig, accuracy: float) -> None:
    """Writes a shape judge with its settings, accuracy and versions; ends in `.safetensors`.

    Args:
        judge: the judge.
        path: the file to write.
        config: settings of its training.
        accuracy: its accuracy on clean test digits, in [0, 1].

    Examples:
        >>> from train_generator.mnist import JudgeConfig, ShapeJudge, save_shape_judge
        >>> path = getfixture("tmp_path") / "judge.safetensors"
        >>> save_shape_judge(ShapeJudge(), path, JudgeConfig(), accuracy=0.1)
    """
    versions = {name: version(name) for name in ("cgn-augment", "torch")}
    write_weights(judge, path, {"test_accuracy": accuracy, **asdict(config), **versions})


def load_shape_judge(path: Path = SHAPE_JUDGE_FILE) -> ShapeJudge:
    """Returns the shape judge that comes with the package, or one of your own.

    Args:
        path: a file written by `train-generator judge`.

    Raises:
        FileError: the file does not exist.
        CheckpointError: the file is damaged or holds another network.

    Examples:
        >>> from train_generator.mnist import load_digits
        >>> from train_generator.mnist import load_shape_judge, predict
        >>> digits = load_digits("test", 5)
        >>> (predict(load_shape_judge(), digits.masks.float()) == digits.labels).all().item()
        True
    """
    return read_weights(ShapeJudge(), path)[0]
