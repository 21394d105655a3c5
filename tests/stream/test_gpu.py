"""On a GPU a second stream makes steps ahead: the same bytes under load, and memory that stays."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from stream_helpers import StubSource, large, same
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cgn_augment import (
    BankSource,
    CounterfactualDataset,
    Counterfactuals,
    FreshSource,
    Interventions,
    Placement,
    RealShapeSource,
    Source,
    Step,
    load_cgn,
    match_real,
)
from cgn_augment.errors import UsageError
from cgn_augment.masks import load_masker

pytestmark = pytest.mark.gpu

NAME = "colored-mnist"
DEPTHS = (0, 1, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOVED = Placement((0.7, 1.4), 0.2, 20, 0.5, edge=1.5)


def source(kind: str) -> Source:
    cgn = load_cgn(NAME, device="cuda")
    if kind == "real shapes":
        masker = load_masker(NAME, device="cuda")
        return RealShapeSource(masker, BankSource(cgn, 40, 4), gate=None)
    if kind == "fresh":
        return FreshSource(cgn)
    if kind == "permuted":
        return BankSource(cgn, 40, 4, Interventions("permute"))
    options: dict[str, Any] = {"placement": MOVED} if kind == "placed bank" else {}
    options |= {"memory": "host"} if "host" in kind else {}
    of_kind = SlowBank if kind == "slow bank" else BankSource
    return of_kind(cgn, 200, 16, storage="uint8" if "bytes" in kind else None, **options)


SOURCES = [
    "bank",
    "slow bank",
    "bank of bytes",
    "bank of the host",
    "bank of bytes of the host",
    "placed bank",
    "permuted",
    "fresh",
    "real shapes",
]


def digits(num: int = 18 * 32) -> TensorDataset:
    images = torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return TensorDataset(images, torch.arange(num) % 10)


def ready(where: str, dtype: torch.dtype = torch.float32, num: int = 18) -> list[Any]:
    """Batches of 32, in ordinary memory, in pinned memory or on the GPU."""
    images, labels = digits(num * 32).tensors
    batches = list(zip(images.to(dtype).split(32), labels.split(32), strict=True))
    if where == "cuda":
        return [(x.cuda(), y.cuda()) for x, y in batches]
    return [(x.pin_memory(), y.pin_memory()) for x, y in batches] if where == "pinned" else batches


def make(kind: str = "bank", depth: int = 0, real: Any = None, **options: Any) -> Any:
    options = {"ratio": 0.9, "seed": 1, **options}
    return CounterfactualDataset(
        ready("pinned") if real is None else real, source(kind), prefetch=depth, **options
    )


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        yield
    torch.cuda.synchronize()


def burn() -> None:
    """Keeps the current stream busy for some milliseconds."""
    product = matrix = torch.full((3072, 3072), 1e-3, device="cuda")
    for _ in range(6):
        product = (product @ matrix).clamp_(-1, 1)


def work() -> None:
    """Work of the loop; it writes into the memory of freed batches, if that is to be had."""
    burn()
    for num in (32, 61, 64):
        torch.full((num, 3, 32, 32), float("nan"), device="cuda")


class SlowBank(BankSource):
    """Is late, so that who does not wait for it reads what is not there yet."""

    def sample(self, *given: Any, **further: Any) -> Counterfactuals:
        burn()
        return super().sample(*given, **further)


def run(train: Any, num_epochs: int = 2) -> list[Any]:
    """Copies of all batches: as they come, and after the loop's own work was launched."""
    seen = []
    for _ in range(num_epochs):
        for images, labels in train:
            early = images.clone()
            work()
            seen.append((early, images.clone(), labels.clone()))
            images.fill_(7)  # a batch is the loop's to write to
            del images, labels  # before the loop's stream has come so far
    torch.cuda.synchronize()
    return [tuple(each.cpu() for each in batch) for batch in seen]


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("where", ["pinned", "cuda"])
def test_no_depth_changes_a_bit_under_load(kind: str, where: str) -> None:
    real = ready(where, num=6)
    expected, *others = (run(make(kind, depth, real)) for depth in DEPTHS)
    assert len(expected) == 12
    assert all(torch.equal(early, late) for early, late, _ in expected)
    for seen in others:
        assert same(seen, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mix", ["append", "replace"])
def test_real_batches_of_half_precision(dtype: torch.dtype, mix: Any) -> None:
    runs = [
        [(x.float(), y) for _, x, y in run(make("bank", depth, ready("pinned", dtype), mix=mix))]
        for depth in (0, 2)
    ]
    assert same(*runs)
    images, _ = next(iter(make("bank", 2, ready("pinned", dtype), mix=mix)))
    assert images.dtype is dtype
    assert images.is_cuda


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.float32, torch.contiguous_format),
        (torch.float32, torch.channels_last),
        (torch.bfloat16, torch.channels_last),
    ],
)
@pytest.mark.parametrize("kind", ["bank", "bank of bytes", "bank of bytes of the host"])
def test_images_are_written_as_the_batch_holds_them(
    kind: str, kept: torch.memory_format, dtype: torch.dtype
) -> None:
    batches = [(x.to(dtype, memory_format=kept), y) for x, y in ready("cuda", num=3)]
    options: dict[str, Any] = {"transform": match_real(MEAN, STD), "value_range": None}
    finished = [run(make(kind, depth, batches, **options)) for depth in (0, 2)]
    assert same(*[[(x.float(), y) for _, x, y in seen] for seen in finished])
    # The same transform as any function, which runs over the images by itself.
    match = match_real(MEAN, STD)
    options["transform"] = lambda images: match(images)
    apart = run(make(kind, 0, batches, **options))
    close = max(2e-6, torch.finfo(dtype).eps)
    for (_, images, labels), (_, others, same_labels) in zip(finished[0], apart, strict=True):
        assert images.dtype is dtype
        assert images.is_contiguous(memory_format=kept)
        assert torch.equal(labels, same_labels)
        torch.testing.assert_close(images, others, rtol=close, atol=close)


def test_further_columns_and_transforms() -> None:
    images, labels = digits(8 * 32).tensors
    batches = [
        {"image": x.cuda() / 2 + 0.5, "label": y.cuda(), "index": y.cuda(), "name": ["a"] * 32}
        for x, y in zip(images.split(32), labels.split(32), strict=True)
    ]
    runs = []
    for depth in DEPTHS:
        train = make("bank", depth, batches, transform=match_real(), shuffle_rows=True)
        seen = []
        for batch in train:
            work()
            seen.append({key: v.cpu() if isinstance(v, Tensor) else v for key, v in batch.items()})
        runs.append(seen)
    assert same(*runs[:2])
    assert same(runs[0], runs[2])


def test_a_consumer_may_use_a_stream_of_its_own() -> None:
    expected = run(make())
    own = torch.cuda.Stream()
    with torch.cuda.stream(own):
        seen = run(make(depth=2))
    assert same(seen, expected)


def test_two_streams_and_a_direct_draw_share_a_bank() -> None:
    cgn = load_cgn(NAME, device="cuda")

    def pairs(depth: int, shared: bool) -> list[Any]:
        banks = [BankSource(cgn, 40, 8) for _ in range(2)]
        banks = banks[:1] * 2 if shared else banks
        trains = [
            CounterfactualDataset(ready("pinned", num=8), bank, prefetch=depth, seed=seed)
            for seed, bank in enumerate(banks)
        ]
        seen = []
        for pair in zip(*trains, strict=True):
            work()
            generator = torch.Generator().manual_seed(5)
            drawn = banks[0].sample(8, generator, Step(4)).images
            seen.append([drawn, *(images for images, _ in pair)])
        return [[each.cpu() for each in parts] for parts in seen]

    assert same(pairs(2, shared=True), pairs(0, shared=False))


def test_workers_read_and_a_break_leaves_nothing() -> None:
    options = {"batch_size": 32, "num_workers": 1, "pin_memory": True}
    options["multiprocessing_context"] = "spawn"
    train = make("bank", 2, digits(6 * 32), **options)
    expected = list(make("bank", 0, digits(6 * 32), batch_size=32))
    for step, (images, _) in enumerate(train):
        assert torch.equal(images, expected[step][0])
        if step == 3:
            break
    assert multiprocessing.active_children() == []


def test_a_run_goes_on_where_it_was_saved() -> None:
    whole = run(make(depth=0))
    for depth, later in ((0, 2), (2, 0), (3, 1)):
        train = make(depth=depth)
        steps = iter(train)
        for _ in islice(steps, 7):
            work()
        state = train.state_dict()
        assert state["step"] == 7
        resumed = make(depth=later)
        resumed.load_state_dict(state)
        assert same(run(resumed), whole[7:])


def test_a_shuffled_loader_keeps_its_order() -> None:
    def order(depth: int) -> list[int]:
        torch.manual_seed(3)
        loader = DataLoader(digits(6 * 32), 32, shuffle=True, pin_memory=True)
        return [y for _, labels in make("bank", depth, loader) for y in labels.tolist()]

    assert order(0) == order(2)


def test_memory_stays_over_epochs_and_breaks() -> None:
    real = ready("pinned", num=50)
    for depth, num_epochs in ((0, 8), (2, 42)):
        train = make("bank of bytes", depth, real)
        sums = torch.zeros((), device="cuda")
        after: list[tuple[int, int]] = []
        for epoch in range(num_epochs):  # 2000 steps, some epochs broken off
            for step, (images, _) in enumerate(train):
                sums += images.mean()
                if epoch % 10 == 9 and step == 20:
                    break
            del images
            torch.cuda.synchronize()
            after.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
        # The first epochs fill the bank and the allocator.
        assert after[-1][0] <= after[5][0] + 2**20, depth
        assert after[-1][1] <= after[5][1] + 2**22, depth


def test_there_is_one_stream_for_all_epochs() -> None:
    train = make(depth=2, real=ready("pinned", num=4))
    found = set()
    for _ in range(4):
        list(train)
        found.add(train._side._stream.cuda_stream)
    assert len(found) == 1
    assert torch.cuda.current_stream().cuda_stream not in found


class FailingSource(StubSource):
    """Fails at its fourth step."""

    device = torch.device("cuda")

    def sample(self, num: int, *given: Any, **further: Any) -> Counterfactuals:
        if len(self.asked) == 3:
            raise ZeroDivisionError("step 3")
        return super().sample(num, *given, **further).to("cuda")


def test_an_error_comes_at_its_own_step() -> None:
    images, labels = large(4)
    real = [(images[..., :8, :8], labels)] * 6
    steps = iter(CounterfactualDataset(real, FailingSource(), prefetch=2, value_range=None))
    seen: deque[Any] = deque()
    with pytest.raises(ZeroDivisionError, match="step 3"):
        seen.extend(steps)
    assert len(seen) == 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_refused() -> None:
    train = make(depth=2)
    next(iter(train))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # nothing here may touch CUDA
        try:
            next(iter(train))
            os.write(write, b"went on")
        except UsageError:
            os.write(write, b"refused")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    assert os.read(read, 99) == b"refused"
    os.close(read)


def test_a_copy_has_no_stream_of_another_process() -> None:
    train = make(depth=2, real=ready("cpu", num=4), ratio=1.0)
    expected = [images.cpu() for images, _ in train]
    side = pickle.loads(pickle.dumps(train._side))
    assert side._stream is None
    train._side = side
    train.set_epoch(0)
    assert same([images.cpu() for images, _ in train], expected)
