"""`CounterfactualDataset`: an existing training loop, with counterfactuals in every batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from cgn_augment.checks import require_choice, require_count
from cgn_augment.class_map import ClassMap, ClassMapLike
from cgn_augment.errors import ArgumentTypeError
from cgn_augment.ranks import find_rank
from cgn_augment.stream.arguments import (
    Label,
    Output,
    find_device,
    find_value_range,
    label_factors,
    make_source,
)
from cgn_augment.stream.batches import Layout, find_layout
from cgn_augment.stream.mixing import Mix, Proportion, Schedule
from cgn_augment.stream.preview import save_preview
from cgn_augment.stream.reading import ReadConfig, wrap_real
from cgn_augment.stream.state import (
    STATE_VERSION,
    Position,
    require_state,
    require_usable_place,
)
from cgn_augment.stream.step import StepMaker
from cgn_augment.types import FACTORS, Mechanisms, Source


class CounterfactualDataset(IterableDataset[Any]):
    """Yields the real batches with counterfactuals mixed in.

    Iterate it as it is, or through `DataLoader(stream, batch_size=None)`. What step k draws is a
    function of (seed, epoch, rank, k) alone. Images are made without a gradient and are ordinary
    tensors of a training graph.

    Args:
        real: a map-style or iterable dataset (with `batch_size`), or a `DataLoader` or any other
            iterable of ready batches (without). A batch is (images, labels, …) or a dict; images
            (B, 3, H, W) float, labels (B,) integers. With Accelerate: prepare the loader first.
        source: a `Source`, or a frozen CGN, which stands for `FreshSource(cgn)`.
        batch_size: real images per step, where `real` is a dataset. This and the keywords down to
            `persistent_workers` are those of the `DataLoader` that the stream replaces, and mean
            the same. They are for a dataset alone.
        shuffle: whether a map-style dataset is read in random order: True by default, other than
            in a `DataLoader`. The order is a function of (seed, epoch), and ranks share it out.
        sampler: draws the order of a map-style dataset instead. It is used as it is: on several
            ranks it must know them, as `DistributedSampler` does.
        batch_sampler: draws batches, instead of batch_size, shuffle, sampler and drop_last.
        num_workers: processes that read a dataset. They never hold the CGN.
        collate_fn: makes a batch of a list of items.
        pin_memory: whether real batches lie where a GPU can fetch them from.
        drop_last: whether a last, smaller batch is left out.
        timeout: seconds to wait for a worker; 0 for as long as it takes.
        worker_init_fn: called in each worker with its number.
        multiprocessing_context: how workers are started ("fork", "spawn", …).
        generator: what the order and the workers' seeds are drawn from instead, as in a plain
            `DataLoader`; on one rank, or with a sampler that knows the ranks.
        prefetch_factor: batches that each worker reads ahead.
        persistent_workers: whether workers stay from epoch to epoch.
        ratio: counterfactuals per real image: a number, or a schedule (`OffAfter`, `Ramp`, any
            function of the step counted over epochs). 1.0 where neither count nor fraction is
            given. Fractions carry over from step to step.
        count: instead of ratio, counterfactuals per step (with mix="replace": per full batch).
        fraction: instead of ratio, the share of the batch that is counterfactual; 1.0 with
            mix="replace" trains on counterfactuals alone.
        mix: "append" puts them behind the real images, "replace" puts them in the place of random
            real images (the batch keeps its size), "separate" yields (real batch, counterfactual
            batch), so that they need not share BatchNorm statistics.
        label: which factor's class is the label of a counterfactual; "all" makes labels
            (B, 3) of shape, texture and background.
        class_map: `{label: class or classes of the CGN}`, where they are not the same numbers.
            Counterfactuals are drawn of these classes only.
        transform: turns counterfactuals (N, 3, H, W) float32 in [-1, 1] into images as the real
            ones are; `match_real(mean, std, crop_size)` makes one. Runs on the device.
        device: where batches are put together; the source's by default.
        seed: of the real order and of everything that is drawn.
        output: "same" keeps the structure of the real batch; "dict" and "namedtuple" yield
            `image, label, is_counterfactual, shape, texture, background`.
        value_range: range of the real images; `transform.value_range` or (-1, 1) by default. The
            first batch is held against it; None leaves that out.
        keys: keys or positions of images and labels in a batch, where they are not the usual.
        rank: which of `world_size` processes this is; from torch.distributed or torchrun's
            environment by default. Each reads its part of a map-style dataset.
        world_size: how many processes there are.
        shard_iterable: whether ranks share out an iterable dataset's samples; must be said where
            there are several ranks.
        seed_items: seeds Python, NumPy and torch by (seed, epoch, index) while a map-style
            dataset reads an item, so that its random transforms are the same whatever the number
            of workers, and after a resume. Off, they draw what a plain loader's would.

    Attributes:
        epoch: the epoch that is under way or comes next; advances when one is complete.
        proportion: ratio, count and fraction, where they follow from each other.
        dataset: the user's, or None.
        sampler: of the inner loader, or None.
        batch_sampler: of the inner loader, or None.

    Raises:
        ArgumentError: a value that cannot be used, keywords that exclude each other or that this
            kind of real data has no use for, a class map that does not fit.
        ArgumentTypeError: a thing of the wrong kind.
        UsageError: the source is on another device than `device`, or there is no such device.
        DataError: while iterating: a batch is not as was declared.
        UsageError: while iterating: inside a worker of a `DataLoader`, or in one that would add a
            dimension.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from cgn_augment import BankSource, CounterfactualDataset
        >>> from cgn_augment.generators import SmallCGN
        >>> digits = TensorDataset(torch.rand(32, 3, 32, 32) * 2 - 1, torch.arange(32) % 10)
        >>> source = BankSource(SmallCGN().freeze(), size=20)
        >>> train = CounterfactualDataset(digits, source, batch_size=8, ratio=0.5)
        >>> for images, labels in train:
        ...     pass
        >>> len(train), images.shape, labels.shape
        (4, torch.Size([12, 3, 32, 32]), torch.Size([12]))
    """

    def __init__(
        self,
        real: Any,
        source: Source | Mechanisms,
        *,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool | None = None,
        drop_last: bool | None = None,
        timeout: float | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool | None = None,
        ratio: float | Schedule | None = None,
        count: float | None = None,
        fraction: float | None = None,
        mix: Mix = "append",
        label: Label = "shape",
        class_map: ClassMap | ClassMapLike | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
        output: Output = "same",
        value_range: tuple[float, float] | Literal["transform"] | None = "transform",
        keys: tuple[str | int, str | int] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shard_iterable: bool | None = None,
        seed_items: bool = False,
    ) -> None:
        super().__init__()
        require_choice("mix", mix, ("append", "replace", "separate"))
        require_choice("label", label, (*FACTORS, "all"))
        require_choice("output", output, ("same", "dict", "namedtuple"))
        require_count("seed", seed, 0)
        rank, world_size = find_rank(rank, world_size)
        if class_map is not None and not isinstance(class_map, ClassMap):
            class_map = ClassMap(class_map)
        source = make_source(source, class_map, label_factors(label))
        device = find_device(device, source)
        value_range = find_value_range(value_range, transform)
        reading = ReadConfig(
            seed=seed,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
            shuffle=shuffle,
            sampler=sampler,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            drop_last=drop_last,
            timeout=timeout,
            worker_init_fn=worker_init_fn,
            multiprocessing_context=multiprocessing_context,
            generator=generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            seed_items=seed_items,
            shard_iterable=shard_iterable,
        )
        self._real = wrap_real(real, reading)
        self.dataset, self.sampler = self._real.dataset, self._real.sampler
        self.batch_sampler = self._real.batch_sampler
        self.proportion = Proportion(
            ratio, count, fraction, mix=mix, batch_size=self._real.batch_size
        )
        self._maker = StepMaker(
            source=source,
            mix=mix,
            label=label,
            output=output,
            class_map=class_map,
            transform=transform,
            device=device,
            value_range=value_range,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self.mix, self.label, self.class_map, self.source = mix, label, class_map, source
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.device, self.keys = device, keys
        self._layout: Layout | None = None
        self._start = self._position = Position(0, 0, 0, 0)
        self._resume: dict[str, Any] | None = None
        self._running: object | None = None
        self._sampler_epoch = getattr(self.sampler, "epoch", None)
        self._pid = os.getpid()

    # What users and other libraries read -------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"CounterfactualDataset({self.proportion!r}, mix={self.mix!r}, label={self.label!r}, "
            f"steps={self._real.num_steps()}, epoch={self.epoch}, device={str(self.device)!r}, "
            f"rank {self.rank} of {self.world_size})"
        )

    def __len__(self) -> int:
        """Returns the exact number of steps of an epoch.

        Raises:
            TypeError: the real data does not know its length.
        """
        num_steps = self._real.num_steps()
        if num_steps is None:
            raise ArgumentTypeError("the real data has no length, so the stream has none either")
        return num_steps

    @property
    def epoch(self) -> int:
        """The epoch that is under way or comes next, counted from 0."""
        return self._position.epoch

    # Epochs and state --------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of `epoch`; nothing changes if the stream is in it already.

        Not needed in a plain loop: the epoch advances by itself when an iteration completes.

        Raises:
            ArgumentError: the epoch is negative.
        """
        if require_count("epoch", epoch, 0) == self.epoch:
            return
        self._running, self._resume = None, None
        self._start = self._position = self._start_of(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Returns where the stream is, counted in batches that were yielded; never weights."""
        started = self._running is not None
        real = self._resume["real"] if self._resume else self._real.state(started)
        return {
            "version": STATE_VERSION,
            **self._position._asdict(),
            "start": self._start._asdict(),
            "real": real,
            "fingerprint": self._fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration go on where `state` was saved.

        Raises:
            CheckpointError: the state is of another version or another configuration.
        """
        require_state(state, self._fingerprint())
        self._running = None
        self._resume = dict(state)
        self._start = Position(**state["start"])
        self._position = Position(**{name: state[name] for name in Position._fields})

    def _fingerprint(self) -> dict[str, str]:
        source = getattr(self.source, "fingerprint", type(self.source).__name__)
        return {
            "real": self._real.key(),
            "source": str(source),
            "proportion": self.proportion.key,
            "mix": self.mix,
            "label": self.label,
            "class_map": repr(self.class_map),
            "seed": str(self.seed),
            "world_size": str(self.world_size),
        }

    def _start_of(self, epoch: int) -> Position:
        """Returns the start of an epoch that was not reached by iterating."""
        sizes = self._real.batch_sizes()
        if sizes is not None:
            carry = self.proportion.carry_after(chain.from_iterable(repeat(sizes, epoch)))
            return Position(epoch, 0, epoch * len(sizes), carry)
        num_steps = self._real.num_steps()
        total = self._position.total if num_steps is None else epoch * num_steps
        return Position(epoch, 0, total, self._position.carry)

    def preview(
        self,
        path: str | os.PathLike[str],
        num: int = 10,
        classes: Sequence[str] | None = None,
    ) -> Path:
        """Draws what the loop will see: real images and counterfactuals, with their labels.

        They are those of the first step of the epoch that is under way or comes next, after all
        transforms, which are undone for display: by mean and std of `match_real`, or by
        `value_range`. The stream stays where it is, as do its sampler and the global generators.
        Where that step has no counterfactual, the next ones up to the sixteenth are shown too.

        Args:
            path: the picture to write: .png, .jpg, .webp, .pdf or .svg.
            num: images of either kind, at most.
            classes: names of the classes by label; those of the dataset by default.

        Returns:
            `path`.

        Raises:
            ArgumentError: the path is no picture, its folder is missing, `num` is below 1, or the
                CGN has no class for a label.
            DataError: there is no batch, or it is not as was declared.
            UsageError: a sampler, or an iterable dataset without workers, that cannot be copied.
        """
        save_preview(self, path, num, classes)
        return Path(path)

    # Iteration ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches of an epoch.

        After `load_state_dict`, those that are left of it. An epoch that was broken off is begun
        again; one whose last batch was yielded is followed by the next.
        """
        require_usable_place(self.device, self._pid)
        return self._iterate()

    def _iterate(self) -> Iterator[Any]:
        self._adopt_sampler_epoch()
        token = self._running = object()
        resume, self._resume = self._resume, None
        # Whoever counts to len(stream) never asks for the end of the epoch.
        if resume is None and 0 < self._position.step == self._real.num_steps():
            self._start = self._position.next_epoch()
        position = self._position if resume else self._start
        self._position = position
        needs_items = getattr(self.source, "needs_items", False)
        items = self._real.items(position.step) if needs_items else None
        batches = self._real.start(position.epoch, position.step, resume and resume["real"])
        self._sampler_epoch = getattr(self.sampler, "epoch", None)
        try:
            for batch in batches:
                layout = self._layout = self._layout or find_layout(batch, self.keys)
                num_real = len(layout.take(batch)[0])
                num, carry = self.proportion.split(position.total, num_real, position.carry)
                chosen = None if items is None else torch.as_tensor(next(items))
                made = self._maker.make(batch, layout, num, position, chosen)
                position = Position(position.epoch, position.step + 1, position.total + 1, carry)
                # An older iterator of this stream no longer says where the stream is.
                if self._running is token:
                    self._position = position
                yield made
            if self._running is token:
                self._running = None
                self._start = self._position = position.next_epoch()
        finally:
            # Workers of a loader end with its iterator, also after a break.
            del batches

    def _adopt_sampler_epoch(self) -> None:
        """Follows a `set_epoch` that another library called on the sampler itself."""
        epoch = getattr(self.sampler, "epoch", None)
        if isinstance(epoch, int) and epoch != self._sampler_epoch:
            self.set_epoch(epoch)
