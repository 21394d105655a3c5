"""Real data and a source that are cheap, and say in their pixels which they are."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import (
    BatchSampler,
    Dataset,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from cgn_augment import CounterfactualDataset, Counterfactuals, RealBatch, Step

SIZE = 8

Make = Callable[[], CounterfactualDataset]
Saved = tuple[bytes, Tensor]


def picture(index: int) -> Tensor:
    """A real image (3, 8, 8) in [-1, 1] that `indices` reads the index from."""
    image = torch.full((3, SIZE, SIZE), index / 1000)
    image[:, 0, 0], image[:, 0, 1] = -1, 1
    return image


def indices(images: Tensor) -> list[int]:
    """The indices of real images."""
    return [round(value) for value in (images[:, 0, 1, 1] * 1000).tolist()]


class Digits(Dataset[Any]):
    """`num` pictures with the label index % 10; `reads` are the indices that were read here.

    With `noise`, three pixels come from the global generators of torch, Python and NumPy.
    """

    def __init__(self, num: int = 20, *, noise: bool = False) -> None:
        self.num, self.noise = num, noise
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads.append(index)
        image = picture(index)
        if self.noise:
            drawn = torch.rand(()).item(), random.random(), np.random.rand()  # noqa: NPY002
            image[:, 2, 2] = torch.tensor(drawn)
        return image, index % 10


class EpochDigits(Digits):
    """Pictures that show the epoch in a pixel."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        image[:, 3, 3] = self.epoch / 1000
        return image, label


class DigitStream(IterableDataset[Any]):
    """The same pictures without an index; each epoch begins at another one."""

    epoch = 0

    def __init__(self, num: int = 20) -> None:
        self.num = num

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for place in range(first, self.num, step):
            index = (place + self.epoch) % self.num
            image = picture(index)
            image[:, 3, 3] = self.epoch / 1000
            yield image, index % 10


class SizedDigitStream(DigitStream):
    def __len__(self) -> int:
        return self.num


def epochs_shown(images: Tensor) -> set[int]:
    """The epochs that the pictures of `EpochDigits` and `DigitStream` show."""
    return {round(value) for value in (images[:, 0, 3, 3] * 1000).tolist()}


def list_of_batches(num: int = 20, batch_size: int = 4) -> list[tuple[Tensor, Tensor]]:
    starts = range(0, num, batch_size)
    batches = [range(start, min(start + batch_size, num)) for start in starts]
    return [
        (torch.stack([picture(i) for i in batch]), torch.tensor([i % 10 for i in batch]))
        for batch in batches
    ]


def rows(num: int = 4) -> tuple[Tensor, Tensor]:
    """One batch of the first pictures and their labels."""
    (batch,) = list_of_batches(num, num)
    return batch


def large(num: int = 4) -> tuple[Tensor, Tensor]:
    """A batch of the size of a CGN's images."""
    return torch.linspace(-1, 1, num * 3072).view(num, 3, 32, 32), torch.arange(num) % 10


class StubSource:
    """Counterfactuals in [-1, 1] that show their three classes in the three channels.

    One pixel is noise, so that no two draws are alike. `asked` are the numbers asked for, `steps`
    for which, `real` the real batches seen.
    """

    num_classes = 10
    image_size = SIZE
    fingerprint = "stub"

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.real: list[RealBatch | None] = []
        self.steps: list[Step] = []

    def sample(
        self, num: int, generator: Generator, step: Step = Step(), real: RealBatch | None = None
    ) -> Counterfactuals:
        self.asked.append(num)
        self.real.append(real)
        self.steps.append(step)
        y = torch.randint(self.num_classes, (3, num), generator=generator)
        images = (y.T / 5 - 1)[:, :, None, None].repeat(1, 1, SIZE, SIZE)
        images[:, :, 0, 0] = torch.rand(num, 3, generator=generator)
        return Counterfactuals(images, *y)


def stream(
    real: Any = None, source: Any = None, *, num: int = 20, **options: Any
) -> CounterfactualDataset:
    """A stream: of steps of four from a map-style dataset of `num` pictures unless told else."""
    if real is None:
        real = Digits(num)
        options = options if "batch_sampler" in options else {"batch_size": 4, **options}
    return CounterfactualDataset(real, source or StubSource(), **options)


def one_batch(batch: Any, source: Any = None, **options: Any) -> Any:
    """What a stream makes of a single real batch."""
    (made,) = stream([batch], source, **options)
    return made


def own(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class EagerBatches:
    """A batch sampler that draws when it is asked for an iterator, before a loader draws."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.randperm(19).split(4))

    def __len__(self) -> int:
        return 5


ORDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "its own generator": lambda: {"batch_size": 4, "shuffle": True, "generator": own()},
    "a weighted sampler": lambda: {
        "batch_size": 4,
        "sampler": WeightedRandomSampler(torch.arange(1.0, 20.0), 18, generator=own()),
    },
    "an eager sampler": lambda: {"batch_sampler": EagerBatches()},
    "a batch sampler with its own generator": lambda: {
        "batch_sampler": BatchSampler(
            RandomSampler(range(19), num_samples=17, generator=own()), 5, drop_last=False
        )
    },
}
"""Keywords of a `DataLoader` that order nineteen pictures."""


def classes_shown(images: Tensor) -> Tensor:
    """The classes (3, N) that the stub's images show."""
    return ((images[:, :, 1, 1] + 1) * 5).round().long().T


def collect(stream: Iterable[Any], num_epochs: int = 1) -> list[Any]:
    """All batches of the next epochs."""
    return [batch for _ in range(num_epochs) for batch in stream]


def same(first: Any, second: Any) -> bool:
    """Whether two nests of containers are equal bit for bit, and of the same types."""
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        bits = [part.detach().numpy().tobytes() for part in (first, second)]
        return (first.dtype, first.shape, bits[0]) == (second.dtype, second.shape, bits[1])
    if isinstance(first, Mapping):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        pairs = zip(first, second, strict=False)
        return len(first) == len(second) and all(same(a, b) for a, b in pairs)
    return bool(first == second)


def global_state() -> tuple[Any, ...]:
    """The global generators of torch, NumPy and Python, in a form that compares."""
    _, numbers, place, *_ = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), numbers.tolist(), place, random.getstate()


def seed_globals(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def save(stream: CounterfactualDataset) -> Saved:
    """What a trainer saves: the state, through a file without pickled code, and torch's RNG."""
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    return file.getvalue(), torch.get_rng_state()


def load(make: Make, saved: Saved) -> CounterfactualDataset:
    """A new stream, as in a new process."""
    stream = make()
    file, rng = saved
    stream.load_state_dict(torch.load(io.BytesIO(file), weights_only=True))
    torch.set_rng_state(rng)
    return stream


class Run:
    """An uninterrupted run of two epochs, with what was saved after each number of batches."""

    def __init__(self, make: Make) -> None:
        seed_globals(5)
        stream = make()
        torch.manual_seed(6)
        self.epochs: list[list[Any]] = []
        self.saved: dict[tuple[int, int], Saved] = {}
        while stream.epoch < 2:
            epoch = len(self.epochs)
            self.epochs.append([])
            self.saved[epoch, 0] = save(stream)
            for batch in stream:
                self.epochs[-1].append(batch)
                self.saved[epoch, len(self.epochs[-1])] = save(stream)

    def check(self, resumed: CounterfactualDataset, epoch: int, step: int) -> None:
        """Whether a stream has the batches that are left after a step of an epoch."""
        for expected in (self.epochs[epoch][step:], *self.epochs[epoch + 1 :]):
            assert same(list(resumed), expected), (epoch, step)


def check_resume(make: Make, run: Run, points: list[tuple[int, int]]) -> None:
    """Resumes at each point, and once more one batch later where there is one."""
    for epoch, step in points:
        saved = run.saved[epoch, step]
        run.check(load(make, saved), epoch, step)
        again = load(make, saved)
        if step < len(run.epochs[epoch]):
            assert same(next(iter(again)), run.epochs[epoch][step])
            step += 1
        run.check(load(make, save(again)), epoch, step)


def put_lengths(rank: int, trains: list[Iterable[Any]], queue: Any) -> None:
    """What a spawned process does with streams that it is sent: it reads them."""
    queue.put([len(list(train)) for train in trains])
