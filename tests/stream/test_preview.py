"""A look at what a loop will see, which leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from stream_helpers import (
    ORDERS,
    Digits,
    DigitStream,
    EpochDigits,
    StubSource,
    collect,
    global_state,
    indices,
    list_of_batches,
    own,
    same,
    seed_globals,
    stream,
)
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler, Subset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from cgn_augment import (
    CounterfactualDataset,
    FreshSource,
    MaskGate,
    Ramp,
    RealShapeSource,
    match_real,
)
from cgn_augment.errors import ArgumentError, DataError, UsageError
from cgn_augment.generators import SmallCGN
from cgn_augment.stream.preview import draw_look, look_at

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Digits(19), **{"batch_size": 4, **options})


REAL: dict[str, Any] = {
    "a dataset": lambda: stream(num=19),
    "with workers": lambda: stream(num=19, num_workers=2, persistent_workers=True),
    "with noise": lambda: stream(Digits(19, noise=True), batch_size=4),
    "with seeded items": lambda: stream(Digits(19, noise=True), batch_size=4, seed_items=True),
    "that knows the epoch": lambda: stream(EpochDigits(19), batch_size=4),
    **{
        name: lambda options=options: stream(Digits(19), **options())
        for name, options in ORDERS.items()
    },
    "a plain loader": lambda: stream(loader(shuffle=True)),
    "with a generator": lambda: stream(loader(shuffle=True, generator=own())),
    "whose workers stay": lambda: stream(
        loader(shuffle=True, num_workers=1, persistent_workers=True)
    ),
    "torchdata's": lambda: stream(StatefulDataLoader(Digits(19), batch_size=4, shuffle=True)),
    "ready items": lambda: stream(DataLoader(ReadyBatches(5), batch_size=None, shuffle=True)),
    "an iterable dataset": lambda: stream(DigitStream(19), batch_size=4),
    "an iterable with workers": lambda: stream(DigitStream(19), batch_size=4, num_workers=2),
    "a list of batches": lambda: stream(list_of_batches(19)),
}


class ReadyBatches(Digits):
    """Items that are batches of two."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return image.repeat(2, 1, 1, 1), torch.tensor([label, label])


def go_to(name: str, epoch: int, step: int) -> tuple[CounterfactualDataset, list[Any], Any]:
    """A stream, what it has yielded, and the iterator that is under way where there is one."""
    seed_globals(5)
    made = REAL[name]()
    batches = collect(made, epoch)
    running = iter(made)
    batches += [next(running) for _ in range(step)]
    return made, batches, running


PLACES = pytest.mark.parametrize(("epoch", "step"), [(0, 0), (0, 2), (1, 0), (2, 1)])


@pytest.mark.parametrize("name", REAL)
@PLACES
def test_a_look_leaves_no_trace(name: str, epoch: int, step: int) -> None:
    runs = []
    for looking in (False, True):
        made, batches, running = go_to(name, epoch, step)
        if looking:
            # torchdata's begins an epoch when it is asked for its state.
            before = None if name == "torchdata's" else made.state_dict()
            random = global_state()
            look_at(made)
            assert global_state() == random
            assert before is None or same(made.state_dict(), before)
        if step:
            batches += list(running)
        runs.append([*batches, *collect(made, 2)])
    assert same(*runs)


@pytest.mark.parametrize("name", [name for name in REAL if name != "torchdata's"])
@PLACES
def test_what_is_seen_is_what_the_next_iteration_begins_with(
    name: str, epoch: int, step: int
) -> None:
    made, _, _ = go_to(name, epoch, step)
    look = look_at(made)
    images, labels = next(iter(made))
    assert made.epoch == look.epoch == epoch + (step > 0)
    assert torch.equal(images, torch.cat([look.real.image, look.made.image]))
    assert torch.equal(labels, torch.cat([look.real.label, look.made.label]))


@pytest.mark.parametrize("name", ["a dataset", "a plain loader", "an iterable dataset"])
def test_a_place_that_was_loaded_is_seen(name: str) -> None:
    made, _, _ = go_to(name, 1, 3)
    state = made.state_dict()
    seed_globals(5)
    resumed = REAL[name]()
    resumed.load_state_dict(state)
    look = look_at(resumed)
    assert (look.epoch, look.step) == (1, 3)
    assert "epoch 1, step 3: " in str(look)
    images, _ = next(iter(resumed))
    assert torch.equal(images, torch.cat([look.real.image, look.made.image]))


def test_a_look_finds_no_rank_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stream(num=20)
    assert "20 real" not in str(look_at(made))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "steps=" not in repr(made)
    assert indices(look_at(made).real.image) == indices(next(iter(made))[0][:4])
    assert len(made) == 3


class OneWay(Sampler[int]):
    """A sampler that cannot be copied."""

    def __init__(self) -> None:
        self.order = iter(range(20))

    def __iter__(self) -> Iterator[int]:
        return (index for index in self.order)

    def __len__(self) -> int:
        return 20

    def __reduce__(self) -> Any:
        raise TypeError("there is one of it")


class Own(DataLoader[Any]):
    """A loader that does something with each batch."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for images, labels in super().__iter__():
            yield images / 2, labels


def test_a_loader_that_changes_its_batches_is_asked_itself() -> None:
    made = stream(Own(Digits(8), batch_size=4))
    assert indices(look_at(made).real.image * 2) == [0, 1, 2, 3]


def test_a_sampler_that_a_look_would_move_on_is_refused_and_stays() -> None:
    made = stream(Digits(20), batch_size=4, sampler=OneWay())
    with pytest.raises(UsageError, match=r"move the sampler .*one of it.*another stream"):
        look_at(made)
    assert len(collect(made)) == 5


@pytest.mark.parametrize("mix", ["append", "replace", "separate"])
@pytest.mark.parametrize("output", ["same", "dict", "namedtuple"])
@pytest.mark.parametrize("label", ["shape", "all"])
@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_real_rows_and_counterfactuals_of_every_kind_of_batch_are_told_apart(
    mix: Any, output: Any, label: Any, form: str
) -> None:
    images, labels = list_of_batches(6, 6)[0]
    batch = (images, labels) if form == "tuple" else {"pixel_values": images, "labels": labels}
    look = look_at(stream([batch], mix=mix, output=output, label=label, ratio=0.5))
    num_real, num_made = (4, 2) if mix == "replace" else (6, 3)
    assert (len(look.real.image), len(look.made.image)) == (num_real, num_made)
    assert set(indices(look.real.image)) <= set(range(6))
    assert f"{num_real} real and {num_made} counterfactual images of 8x8 ({mix}, " in str(look)


def texts(figure: Any) -> list[str]:
    """What stands at the left of each row and below each image."""
    found = [
        label.get_text() for cell in figure.axes for label in (cell.yaxis.label, cell.xaxis.label)
    ]
    return [text for text in found if text]


def test_labels_have_the_names_of_the_classes_and_rows_say_what_is_in_them() -> None:
    digits = Digits(20)
    digits.classes = [f"digit {number}" for number in range(9)]  # type: ignore[attr-defined]
    real = Subset(digits, range(12))
    made = stream(real, batch_size=12, shuffle=False, label="texture")
    told = texts(draw_look(look_at(made), 11))
    assert told[0].splitlines()[:3] == ["11 of 12 real", "8x8", "values -1 to 1"]
    assert told[1:4] == ["label digit 0", "label digit 1", "label digit 2"]
    assert "real 11 to 11" in told
    look = look_at(made)
    named = [f"digit {y}" if y < 9 else "9?" for y in look.made.texture.tolist()]
    lines = told[-1].splitlines()
    assert [line.split(" ")[0] for line in lines] == ["label", "shape", "texture", "background"]
    assert lines[0] == f"label {named[10]}"
    assert lines[2] == f"texture {named[10]}"
    told = texts(draw_look(look_at(made, classes=["a" * 30] * 10), 1))
    assert told[1] == f"label {'a' * 14}…"
    with pytest.raises(ArgumentError, match="classes must be names by label"):
        look_at(made, classes="cat")


def test_names_come_from_hugging_face_and_imagenet_too() -> None:
    image = torch.zeros(3, 8, 8).tolist()
    columns = {"image": [image], "label": [0]}
    features = datasets.Features(
        image=datasets.Array3D((3, 8, 8), "float32"),
        label=datasets.ClassLabel(names=["cat", "dog"]),
    )
    real = datasets.Dataset.from_dict(columns, features=features).with_format("torch")
    assert look_at(stream(real, batch_size=1)).names == ["cat", "dog"]
    source = StubSource()
    source.num_classes = 1000
    options = {"num": 4, "source": source, "ratio": 0}
    assert look_at(stream(**options)).names[207] == "golden retriever"
    assert not look_at(stream(**options, class_map={y: y for y in range(10)})).names
    assert not look_at(stream(num=4)).names


@pytest.mark.parametrize(
    ("options", "scale", "told"),
    [
        ({}, (2, -1), "[-1, 1] shown"),
        ({"value_range": (0, 255), "transform": lambda x: (x + 1) * 127.5}, (255, 0), "0, 255"),
        (
            {"transform": match_real((0.4, 0.5, 0.6), 0.2)},
            None,
            "mean (0.4, 0.5, 0.6) and std 0.2",
        ),
        ({"transform": lambda x: x * 3 + 3, "value_range": None}, (6, 0), "knows no range"),
    ],
)
def test_transforms_are_undone_for_display(options: Any, scale: Any, told: str) -> None:
    images = torch.linspace(0, 1, 12 * 3 * 64).view(12, 3, 8, 8)
    if scale is None:
        mean = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
        seen = (images - mean) / 0.2
    else:
        seen = images * scale[0] + scale[1]
    look = look_at(stream([(seen, torch.arange(12) % 10)], **options))
    torch.testing.assert_close(look.undo(look.real.image.double()).float(), images)
    figure = draw_look(look, 4)
    assert told in " ".join(figure.get_suptitle().split())
    drawn = figure.axes[3].get_images()[0].get_array()
    torch.testing.assert_close(torch.as_tensor(drawn.data), images[3].permute(1, 2, 0))


def test_values_out_of_range_are_counted() -> None:
    images = torch.zeros(8, 3, 8, 8)
    images[:4] = 2
    made = stream([(images, torch.arange(8))], value_range=None, transform=match_real())
    assert "50.0% out of range" in texts(draw_look(look_at(made), 1))[0]


def test_images_that_fill_half_of_the_range_stand_out() -> None:
    images = torch.linspace(0, 1, 4 * 3 * 64).view(4, 3, 8, 8)  # beside counterfactuals in [-1, 1]
    told = texts(draw_look(look_at(stream([(images, torch.arange(4))]))))
    assert "only 50% of the range" in told[0]
    assert "of the range" not in told[5]


def test_images_that_are_not_square_are_shown_as_they_are(tmp_path: Path) -> None:
    real = TensorDataset(torch.rand(12, 3, 20, 44) * 2 - 1, torch.arange(12) % 10)
    made = stream(
        real, batch_size=12, transform=lambda x: torch.zeros(len(x), 3, 20, 44), value_range=None
    )
    assert "20x44 (height x width)" in str(look_at(made))
    figure = draw_look(look_at(made))
    assert figure.axes[0].get_images()[0].get_array().shape == (20, 44, 3)
    assert made.preview(tmp_path / "wide.png", num=2) == tmp_path / "wide.png"
    assert (tmp_path / "wide.png").stat().st_size > 1000


def test_steps_are_looked_at_until_one_has_a_counterfactual() -> None:
    look = look_at(stream(num=40, ratio=0.1))
    assert (len(look.real.image), len(look.made.image), look.num_steps) == (12, 1, 3)
    assert "steps 0 to 2: 12 real and 1 counterfactual images" in str(look)
    none = look_at(stream(num=400, ratio=Ramp(0, 1, 10**6)))
    assert (len(none.made.image), none.num_steps) == (0, 16)
    assert "no counterfactual images of 8x8" in str(none)
    draw_look(none)
    alone = look_at(stream(num=8, fraction=1.0, mix="replace"))
    assert (len(alone.real.image), len(alone.made.image)) == (0, 4)
    draw_look(alone)


def test_a_look_counts_no_masks(tiny_cgn: SmallCGN) -> None:
    real = TensorDataset(torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8))
    source = RealShapeSource(
        lambda images: torch.ones_like(images[:, :1]),
        FreshSource(tiny_cgn),
        gate=MaskGate(max_area=1.0),
        cache_masks=True,
    )
    made = CounterfactualDataset(real, source, batch_size=8)
    assert (look_at(made).made.real_index >= 0).all()
    assert sum(source.counts.values()) == 0


def test_what_cannot_be_shown_is_one_error_before_anything_is_drawn(tmp_path: Path) -> None:
    class Nothing(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    source = StubSource()
    with pytest.raises(DataError, match="nothing to show: the real data has no batch"):
        stream(Nothing(), source, batch_size=4).preview(tmp_path / "a.png")
    with pytest.raises(ArgumentError, match=r"folder .* is missing: make it first"):
        stream(num=4, source=source).preview(tmp_path / "no" / "a.png")
    with pytest.raises(ArgumentError, match="num must be 1 or more"):
        stream(num=4, source=source).preview(tmp_path / "a.png", num=0)
    assert not source.asked
    with pytest.raises(DataError, match="declared to be in"):
        stream([(torch.full((8, 3, 8, 8), 3.0), torch.arange(8))]).preview(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_a_look_at_a_stream_on_a_gpu(tmp_path: Path) -> None:
    real = TensorDataset(torch.rand(20, 3, 32, 32) * 2 - 1, torch.arange(20) % 10)
    cgn = SmallCGN(width=4).freeze().cuda()
    made = CounterfactualDataset(real, cgn, batch_size=8, transform=match_real(0.5, 0.5))
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    look = look_at(made)
    assert look.made.image.device.type == "cpu"
    assert torch.equal(torch.cuda.get_rng_state(), before)
    images, _ = next(iter(made))
    assert torch.equal(images.cpu(), torch.cat([look.real.image, look.made.image]))
    made.preview(tmp_path / "gpu.png")
