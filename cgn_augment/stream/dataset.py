"""`CounterfactualDataset`: an existing training loop, with counterfactuals in every batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from cgn_augment.checks import require_choice, require_count
from cgn_augment.class_map import ClassMap, ClassMapLike
from cgn_augment.errors import ArgumentTypeError, DataError
from cgn_augment.ranks import Ranks
from cgn_augment.stream.ahead import StepsAhead
from cgn_augment.stream.arguments import (
    Label,
    Output,
    find_device,
    find_value_range,
    label_factors,
    make_source,
    read_keys,
    require_depth,
    require_row_order,
)
from cgn_augment.stream.as_loader import StreamLoader, StreamSampler, mark_the_end
from cgn_augment.stream.batches import Layout, find_layout
from cgn_augment.stream.columns import check_fill
from cgn_augment.stream.history import History
from cgn_augment.stream.mixing import Mix, Proportion, Schedule
from cgn_augment.stream.place import refuse_rebuilding, require_usable_place
from cgn_augment.stream.planning import Planned, plan_steps
from cgn_augment.stream.reading import ReadConfig, wrap_real
from cgn_augment.stream.side_stream import SideStream
from cgn_augment.stream.state import STATE_VERSION, Position, require_state
from cgn_augment.stream.step import StepMaker
from cgn_augment.types import FACTORS, Mechanisms, Source


class CounterfactualDataset(IterableDataset[Any]):
    """Yields the real batches with counterfactuals mixed in.

    Iterate it directly. If a client insists on a `DataLoader`, pass it `stream.as_loader()`. What
    step k draws is a function of (seed, epoch, rank, k) alone. Images are made without gradients
    and are ordinary tensors in a training graph.

    An epoch ends with its last batch, or when its iterator is dropped after at least one batch:
    each `iter` begins the next epoch, as a shuffled `DataLoader` draws a new order.

    Args:
        real: a map-style or iterable dataset (with `batch_size`), or a `DataLoader` or any other
            iterable of ready batches (without). A batch is (images, labels, …) or a dict; images
            (B, 3, H, W) float, labels (B,) integers. With Accelerate: prepare the loader first.
        source: a `Source`, or a frozen CGN, which stands for `FreshSource(cgn)`.
        batch_size: real images per step, if `real` is a dataset. This and the keywords down to
            `persistent_workers` are those of the `DataLoader` that the stream replaces, and mean
            the same. They apply to a dataset only.
        shuffle: whether a map-style dataset is read in random order: True by default, unlike in a
            `DataLoader`. The order is a function of (seed, epoch), and each rank reads its share.
        sampler: draws the order of a map-style dataset instead. It is used as it is. With several
            ranks it must know them, as `DistributedSampler` does.
        batch_sampler: draws batches; replaces batch_size, shuffle, sampler and drop_last.
        num_workers: processes that read a dataset. They never hold the CGN.
        collate_fn: makes a batch from a list of items.
        pin_memory: whether real batches are put in pinned memory, from which a GPU copies faster.
        drop_last: whether to leave out a last, smaller batch.
        timeout: seconds to wait for a worker; 0 waits without limit.
        worker_init_fn: called in each worker with its number.
        multiprocessing_context: how workers are started ("fork", "spawn", …).
        generator: draws the order and the workers' seeds instead, as in a plain `DataLoader`; for
            one rank, or with a sampler that knows the ranks.
        prefetch_factor: batches that each worker reads ahead, at most 1024.
        persistent_workers: whether workers stay alive from epoch to epoch.
        ratio: counterfactuals per real image: a number, or a schedule (`OffAfter`, `Ramp`, any
            function of the step counted over epochs). 1.0 if neither count nor fraction is given.
            Fractions of an image carry over to the next step.
        count: counterfactuals per step, instead of ratio (with mix="replace": per full batch).
        fraction: share of the batch that is counterfactual, instead of ratio; 1.0 with
            mix="replace" trains on counterfactuals alone.
        mix: "append" puts counterfactuals after the real images, "replace" puts them in the place
            of random real images (the batch keeps its size), "separate" yields (real batch,
            counterfactual batch), so that the two need not share BatchNorm statistics.
        label: the factor whose class is the label of a counterfactual; "all" makes labels (B, 3) of
            shape, texture and background.
        class_map: `{label: class or classes of the CGN}`, if the two differ. Only classes in the
            map are drawn.
        transform: turns counterfactuals (N, 3, H, W) float32 in [-1, 1] into images like the real
            ones; `match_real(mean, std, size)` makes one. Runs on the device.
        device: device where batches are assembled; by default the source's.
        seed: seed of the real order and of every draw.
        output: "same" keeps the structure of the real batch; "dict" and "namedtuple" yield `image,
            label, is_counterfactual, shape, texture, background`.
        value_range: range of the real images; `transform.value_range` or (-1, 1) by default. The
            first eight images are checked against it; None skips the check.
        keys: keys or positions of images and labels in a batch, if they are not at the usual
            places.
        fill: values for counterfactuals in the further columns of a batch, by key or position:
            `{"weight": 1.0}`; "mask" for a column of masks, if the source knows those of its
            counterfactuals. Some columns need no entry: integers (an index) get -1, lists (paths)
            get None, and masks that a `RealShapeSource` reads get the masks of the counterfactuals.
            Any other column must be named.
        shuffle_rows: whether to put real images and counterfactuals in random order, for methods
            that treat the rows of a batch alike (mixup with the flipped batch, micro-batches).
            Otherwise real images come first. Further columns and `real_index` follow.
        batch_multiple: makes each mixed batch a multiple of this, by the number of counterfactuals,
            which evens out over the steps; for mix="append".
        rank: which of `world_size` processes this is. By default found from torch.distributed or
            torchrun's environment, when the length or a batch is first asked for. Each rank reads
            its part of a map-style dataset.
        world_size: number of processes.
        shard_iterable: whether ranks share the samples of an iterable dataset; required with
            several ranks.
        seed_items: seeds Python, NumPy and torch by (seed, epoch, index) while an item of a
            map-style dataset is read. Its random transforms are then the same for any number of
            workers, and after a resume. If off, they draw as with a plain loader.
        prefetch: number of steps made ahead, at most 1024; 0 makes each step on demand. It does not
            change what is drawn. On a GPU a second CUDA stream copies, draws and mixes while the
            loop's own stream trains. On a CPU a thread makes steps, on Linux in the time that the
            training leaves over. Real batches are read ahead too, so they must not share memory
            that is written again. On a CPU they are read on demand if reading draws from the global
            random generators: the thread then only draws, or does nothing if the source needs the
            real batch (`RealShapeSource`, "permute") or the length of the epoch is unknown. There
            it has no effect for a source with neither `needs_real = False` nor
            `draws_apart = True`.

    Attributes:
        epoch: the current epoch, or the next one between epochs.
        proportion: ratio, count and fraction, as far as they follow from each other.
        dataset: the user's dataset, or None.
        sampler: the sampler of the inner loader; its `set_epoch` sets the stream's epoch.
        batch_sampler: the batch sampler of the inner loader, or None.
        rank: rank of this process, as known now.
        world_size: number of processes, as known now.

    Raises:
        ArgumentError: a value cannot be used, keywords exclude each other or do not apply to this
            kind of real data, or the class map does not fit.
        ArgumentTypeError: an argument has the wrong type.
        UsageError: the source is on another device than `device`, or the device does not exist.
        DataError: while iterating: a batch is not what was declared. Each step checks its form, and
            its values (labels, NaN) if it arrives on the CPU. If batches arrive on a GPU, values
            are checked only until eight images have been seen, since a check stalls the host.
        UsageError: while iterating: inside a worker of a `DataLoader`, or in a loader that would
            batch or slice the ready batches again; or the rank has changed since the length or a
            batch was first asked for.

    Examples:
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
        fill: Mapping[str | int, Any] | None = None,
        shuffle_rows: bool = False,
        batch_multiple: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        shard_iterable: bool | None = None,
        seed_items: bool = False,
        prefetch: int = 0,
    ) -> None:
        super().__init__()
        require_choice("mix", mix, ("append", "replace", "separate"))
        require_choice("label", label, (*FACTORS, "all"))
        require_choice("output", output, ("same", "dict", "namedtuple"))
        require_count("seed", seed, 0)
        self._ranks = Ranks(rank, world_size)
        if class_map is not None and not isinstance(class_map, ClassMap):
            class_map = ClassMap(class_map)
        source = make_source(source, class_map, label_factors(label))
        device = find_device(device, source)
        value_range = find_value_range(value_range, transform)
        reading = ReadConfig(
            seed=seed,
            ranks=self._ranks,
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
        self.dataset, self.batch_sampler = self._real.dataset, self._real.batch_sampler
        self.proportion = Proportion(
            ratio,
            count,
            fraction,
            mix=mix,
            batch_size=self._real.batch_size,
            batch_multiple=batch_multiple,
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
            shuffle_rows=require_row_order(shuffle_rows, mix),
            fill=check_fill(fill),
        )
        self.mix, self.label, self.class_map, self.source = mix, label, class_map, source
        self.seed, self.device, self.keys = seed, device, read_keys(keys)
        self.shuffle_rows = shuffle_rows
        self.prefetch = require_depth(prefetch, device)
        self._side = SideStream(device) if device.type == "cuda" else None
        self._layout: Layout | None = None
        self._history = History(self._real, self.proportion)
        self._bound: tuple[int, int] | None = None
        self._pid = os.getpid()
        if self._ranks.is_settled():
            self._bind()

    # What users and other libraries read -------------------------------------------------------

    def __repr__(self) -> str:
        steps, where = "", ""
        if self._bound is not None:
            steps = f", steps={self._real.num_steps()}"
            where = ", rank {} of {}".format(*self._bound)
        return (
            f"CounterfactualDataset({self.proportion!r}, mix={self.mix!r}, label={self.label!r}"
            f"{steps}, epoch={self.epoch}, device={str(self.device)!r}{where})"
        )

    def __len__(self) -> int:
        """Returns the exact number of steps of an epoch.

        Raises:
            TypeError: the real data does not know its length.
            UsageError: the rank is unknown, or has changed.
        """
        self._bind()
        num_steps = self._real.num_steps()
        if num_steps is None:
            raise ArgumentTypeError("the real data has no length, so the stream has none either")
        return num_steps

    def __getattr__(self, name: str) -> Any:
        refuse_rebuilding(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pid=os.getpid())

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one between epochs; counted from 0."""
        return self._history.position.epoch

    @property
    def sampler(self) -> StreamSampler:
        """The sampler of the inner loader; its `set_epoch` sets the stream's epoch."""
        return StreamSampler(self, self._real.sampler)

    @property
    def rank(self) -> int:
        """Which of `world_size` processes this is, as known now."""
        return self._ranks.look()[0]

    @property
    def world_size(self) -> int:
        """Number of processes, as known now."""
        return self._ranks.look()[1]

    def as_loader(self) -> StreamLoader:
        """Returns the stream as a `DataLoader`, for clients that insist on one.

        Length, epoch and state of the loader are the stream's.
        """
        return StreamLoader(self)

    def is_at_end(self) -> bool:
        """Returns whether the batch yielded last ends its epoch, as far as known."""
        return self._history.position.step == self._real.num_steps()

    # Epochs and state --------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that comes next.

        A plain loop need not call it: the epoch advances by itself. After `load_state_dict` inside
        an epoch, setting this same epoch keeps the place, because clients call both.

        Args:
            epoch: counted from 0.

        Raises:
            ArgumentError: the epoch is negative.
        """
        self._history.set_epoch(require_count("epoch", epoch, 0))

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the stream, counted in yielded batches; never weights.

        After a `break` this is the place of the break, until the next `iter`.
        """
        if not self._history.is_placed:
            self._bind()
        return {
            "version": STATE_VERSION,
            **self._history.state(),
            "fingerprint": self._fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration continue where `state` was saved.

        Args:
            state: what `state_dict` returned.

        Raises:
            CheckpointError: the state belongs to another version or configuration.
        """
        require_state(state, self._fingerprint())
        self._history.load(dict(state))

    def _fingerprint(self) -> dict[str, str]:
        source = getattr(self.source, "fingerprint", type(self.source).__name__)
        return {
            "real": self._real.key(),
            "source": str(source),
            "proportion": self.proportion.key,
            "mix": self.mix + (" in random order" if self.shuffle_rows else ""),
            "label": self.label,
            "class_map": repr(self.class_map),
            "seed": str(self.seed),
            "world_size": str(self.world_size),
        }

    def _bind(self) -> None:
        """Finds the rank, and restricts the real data to its part."""
        found = self._ranks.find()
        if self._bound != found:
            self._real.bind(*found)
            self.proportion.require_epoch(self._real.batch_sizes() or [])
            self._maker.rank, self._maker.world_size = found
            self._bound = found
            self._history.bind()

    def preview(
        self,
        path: str | os.PathLike[str],
        num: int = 10,
        classes: Sequence[str] | None = None,
    ) -> Path:
        """Draws what the loop will see: real images and counterfactuals, with their labels.

        They come from the step that the next iteration would begin with, after all transforms. For
        display these are undone, by mean and std of `match_real`, or by `value_range`. The stream
        does not move, nor do its sampler and the global random generators. If that step has no
        counterfactual, up to fifteen more steps are shown too.

        Args:
            path: the picture to write: .png, .jpg, .webp, .pdf or .svg.
            num: images of each kind, at most.
            classes: names of the classes by label; those of the dataset by default.

        Returns:
            `path`.

        Raises:
            ArgumentError: the path is not a picture, its folder is missing, `num` is below 1, or
                the CGN has no class for a label.
            DataError: there is no batch, or it is not what was declared.
            UsageError: a sampler, or an iterable dataset without workers, cannot be copied.
        """
        from cgn_augment.stream.preview import save_preview  # imports the drawing libraries

        save_preview(self, path, num, classes)
        return Path(path)

    # Iteration ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches of an epoch.

        After `load_state_dict`, yields the rest of that epoch. If the last iterator was dropped
        after a batch, this is the next epoch.
        """
        self._bind()
        skipping = require_usable_place(
            self, self._pid, self._history.knows_epoch, self._history.loaded_step
        )
        self._history.leave_a_begun_epoch()
        batches = self._iterate()
        return batches if skipping is None else mark_the_end(batches, self, skipping)

    def _iterate(self) -> Iterator[Any]:
        token, position, loaded = self._history.begin()
        needs_items = getattr(self.source, "needs_items", False)
        items = self._real.items(position.step) if needs_items else None
        batches = self._real.start(position.epoch, position.step, loaded)
        self._history.note_sampler()
        planned = plan_steps(batches, self._find_layout, self.proportion, position, items)
        steps = self._make(planned)
        try:
            for made, position, read in steps:
                self._history.advance(token, position, read)
                yield made
            self._require_whole(position.step)
            self._history.complete(token, position)
        finally:
            # Workers of a loader end with its iterator, also after a break.
            del batches
            steps.close()
            planned.close()

    def _make(self, planned: Iterator[Planned]) -> Generator[tuple[Any, Position, Any], None, None]:
        """Yields each step, the position after it and, if more was read, the state of the data."""
        maker, note = self._maker, partial(self._real.state, started=True)
        if self.prefetch and self._side is not None:
            yield from self._side.run(planned, maker.make_planned, note, self.prefetch)
        elif self.prefetch and maker.can_draw_apart:
            sizes, num_steps = self._real.batch_sizes(), self._real.num_steps()
            ahead = StepsAhead(maker, note, self.prefetch, self.proportion, sizes, num_steps)
            yield from ahead.run(planned)
        else:
            for step in planned:
                yield maker.make_planned(step), step.after, None

    def _find_layout(self, batch: Any) -> Layout:
        self._layout = self._layout or find_layout(batch, self.keys)
        return self._layout

    def _require_whole(self, num_read: int) -> None:
        """Raises `DataError` if an epoch ended before its length."""
        num_steps = self._real.num_steps()
        if self._real.is_exact() and num_steps is not None and num_read < num_steps:
            raise DataError(
                f"the real data ended after {num_read} of {num_steps} batches: an item of the "
                "dataset raised StopIteration, or its sampler draws less than its length says"
            )
