"""The worked example's classifier: the network, the loop, interruption and resume."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from cgn_augment import BankSource, CounterfactualDataset, SmallCGN
from cgn_augment.errors import ArgumentError, CheckpointError
from train_generator.classifier import (
    ClassifierConfig,
    ClassifierRun,
    MNISTClassifier,
    measure_accuracy,
    train_step,
)
from train_generator.mnist import make_variant


@pytest.fixture(scope="module")
def digits() -> TensorDataset:
    return make_variant("double_colored", "train", num=96).dataset()


def make_run(
    digits: TensorDataset, cgn: SmallCGN, checkpoint: Path | None = None, num_epochs: int = 2
) -> ClassifierRun:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MNISTClassifier()
    stream = CounterfactualDataset(digits, BankSource(cgn, 20, 3), batch_size=16, ratio=0.5)
    return ClassifierRun(model, stream, ClassifierConfig(num_epochs=num_epochs), checkpoint)


def test_the_classifier_has_the_papers_layers() -> None:
    model = MNISTClassifier()
    shapes = [tuple(value.shape) for value in model.parameters() if value.dim() > 1]
    assert shapes == [(32, 3, 5, 5), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (10, 64)]
    log_probabilities = model(torch.rand(4, 3, 32, 32))
    assert log_probabilities.shape == (4, 10)
    torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(4))


def test_a_step_lowers_the_loss_of_its_own_batch() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MNISTClassifier()
    optimizer = torch.optim.Adadelta(model.parameters())
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 10
    losses = [float(train_step(model, optimizer, images, labels)[0]) for _ in range(30)]
    assert losses[0] == pytest.approx(2.3026, abs=0.1)  # ln 10
    assert losses[-1] < losses[0]


class Constant(nn.Module):
    """Answers class 3 always."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.eye(10)[3])

    def forward(self, images: Tensor) -> Tensor:
        return self.scores.expand(len(images), -1)


def test_accuracy_counts_images_not_batches_and_puts_the_mode_back() -> None:
    model = Constant().train()
    batches = [
        (torch.zeros(3, 3, 8, 8), torch.tensor([3, 3, 3])),
        (torch.zeros(1, 3, 8, 8), torch.tensor([0])),
    ]
    assert measure_accuracy(model, batches) == 0.75
    assert model.training
    with pytest.raises(ArgumentError, match="no images to measure"):
        measure_accuracy(model, [])


def test_the_learning_rate_falls_by_the_decay_each_epoch(
    digits: TensorDataset, tiny_cgn: SmallCGN
) -> None:
    run = make_run(digits, tiny_cgn, num_epochs=3)
    rates: list[float] = []
    run.model.register_forward_pre_hook(
        lambda model, _: (
            rates.append(run.optimizer.param_groups[0]["lr"]) if model.training else None
        )
    )
    results = run.train([digits[:16]], progress=False)
    assert rates == [0.7**epoch for epoch in range(3) for _ in range(6)]
    assert [result.epoch for result in results] == [1, 2, 3]
    assert all(0 <= result.train_accuracy <= 1 for result in results)


class Interrupting:
    """Test batches that press Ctrl-C when the model is tested for the first time."""

    def __init__(self, batch: tuple[Tensor, Tensor]) -> None:
        self.batch, self.pressed = batch, False

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        yield self.batch


def press_in_step(run: ClassifierRun, step: int) -> None:
    """Presses Ctrl-C while the run's `step`-th step is computed."""
    steps = 0

    def press(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGINT)

    run.model.register_forward_hook(press)


@pytest.mark.parametrize("killed_in", [1, 2])
def test_a_run_that_is_killed_in_a_test_goes_on_with_that_test(
    killed_in: int, digits: TensorDataset, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    test = [digits[:16]]
    expected = make_run(digits, tiny_cgn).train(test, progress=False)

    class Killing:
        """Test batches whose n-th pass ends the process, as far as the run can tell."""

        passes = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.passes += 1
            if self.passes == killed_in:
                raise SystemExit
            yield digits[:16]

    path = tmp_path / "run.pt"
    with pytest.raises(SystemExit):
        make_run(digits, tiny_cgn, path).train(Killing(), progress=False)
    second = make_run(digits, tiny_cgn, path)
    second.resume()
    assert len(second.results) == killed_in - 1
    assert second.train(test, progress=False) == expected


@pytest.mark.parametrize("step", [1, 4, 6, 7])
def test_an_interrupted_run_goes_on_bit_for_bit(
    step: int, digits: TensorDataset, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    test = [digits[:16]]
    whole = make_run(digits, tiny_cgn)
    expected = whole.train(test, progress=False)

    path = tmp_path / "folder" / "run.pt"
    first = make_run(digits, tiny_cgn, path)
    press_in_step(first, step)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        first.train(test, progress=False)
    assert signal.getsignal(signal.SIGINT) is handler

    second = make_run(digits, tiny_cgn, path)
    second.resume()
    assert second.train(test, progress=False) == expected
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]


def test_ctrl_c_while_testing_keeps_the_epoch(
    digits: TensorDataset, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        make_run(digits, tiny_cgn, path).train(Interrupting(digits[:16]), progress=False)
    run = make_run(digits, tiny_cgn, path)
    run.resume()
    assert len(run.results) == 1


def test_a_finished_run_that_is_resumed_gives_its_results(
    digits: TensorDataset, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    expected = make_run(digits, tiny_cgn, path, 1).train([digits[:16]], progress=False)
    run = make_run(digits, tiny_cgn, path, 1)
    run.resume()
    assert run.train([], progress=False) == expected


def test_a_checkpoint_is_never_written_over_unasked(
    digits: TensorDataset, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    make_run(digits, tiny_cgn, path, 1).train([digits[:16]], progress=False)
    before = path.read_bytes()
    with pytest.raises(ArgumentError, match="run.pt holds a training: .* resume it"):
        make_run(digits, tiny_cgn, path, 1).train([digits[:16]], progress=False)
    assert path.read_bytes() == before


def test_resume_refuses_what_it_cannot_go_on_with(
    digits: TensorDataset, tiny_cgn: SmallCGN, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(CheckpointError, match=r"there is no .*run.pt to resume"):
        make_run(digits, tiny_cgn, path).resume()
    make_run(digits, tiny_cgn, path, 1).train([digits[:16]], progress=False)
    with pytest.raises(CheckpointError, match=r"num_epochs: 1 then, 2 now"):
        make_run(digits, tiny_cgn, path, 2).resume()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="no checkpoint of a training, or is cut off"):
        make_run(digits, tiny_cgn, path, 1).resume()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be 1 or more, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"decay": -1.0}, "decay must be above 0, got -1.0"),
    ],
)
def test_settings_are_checked_when_made(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ClassifierConfig(**settings)
