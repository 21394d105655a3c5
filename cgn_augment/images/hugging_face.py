"""Labelled images of Hugging Face datasets."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgn_augment.checks import require_package
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.files import first_line
from cgn_augment.images.reading import Encoded

HUGGING_FACE = "hf:"


@dataclass(frozen=True)
class HuggingFaceRows:
    """The rows of a split.

    Attributes:
        rows: a `datasets.Dataset`.
        image: name of the column of images.
        label: name of the column of labels, int.
        classes: names by label.
    """

    rows: Any
    image: str
    label: str
    classes: tuple[str, ...]

    def undecoded(self, *columns: str) -> HuggingFaceRows:
        """Returns the rows with images in these columns as undecoded files, {"bytes", "path"}."""
        datasets: Any = importlib.import_module("datasets")
        rows = self.rows
        for column in columns:
            rows = rows.cast_column(column, datasets.Image(decode=False))
        return HuggingFaceRows(rows, self.image, self.label, self.classes)

    def label_of(self, row: Mapping[str, Any], number: int) -> int:
        """Returns the label of a row.

        Args:
            row: the row.
            number: its number, for the error.

        Raises:
            DataError: it has none, or one that is no class.
        """
        label = row[self.label]
        if label is None or not 0 <= label < len(self.classes):
            raise DataError(
                f"row {number} has the label {label}, which is none of the {len(self.classes)} "
                "classes: leave such rows out"
            )
        return int(label)

    def file_of(self, row: Mapping[str, Any], number: int) -> Encoded:
        """Returns the image of an undecoded row; errors as for `label_of`."""
        file = contents_of(row[self.image])
        if file is None:
            raise DataError(
                f"row {number} has no image in the column {self.image!r}: leave such rows out"
            )
        return file


def contents_of(cell: Mapping[str, Any] | None) -> Encoded | None:
    """Returns what a cell of undecoded images holds: a file's content, its path, or nothing.

    Args:
        cell: {"bytes", "path"}, or None.
    """
    found: Encoded | None = None if cell is None else cell["bytes"] or cell["path"]
    return found or None


def open_hugging_face(
    name_and_split: str, classes: Sequence[str] | None, without: Sequence[str] = ()
) -> HuggingFaceRows:
    """Opens a split of a dataset.

    Args:
        name_and_split: NAME@SPLIT, where NAME is a folder or a name on the hub.
        classes: names by label, if the data do not say.
        without: image columns that hold something else, such as masks.

    Raises:
        ArgumentError: no split is named, or the classes are unknown.
        DataError: the dataset or split does not exist, or has other columns.
        MissingPackageError: the package datasets is not installed.
    """
    name, at, split = name_and_split.rpartition("@")
    if not at:
        raise ArgumentError(
            f"say which split: {HUGGING_FACE}{name_and_split}@train, or another one"
        )
    need = f"{HUGGING_FACE}{name_and_split} is read by the package datasets, which is not installed"
    datasets: Any = require_package("datasets", "datasets", need)
    try:
        if any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(name)
            dataset = found[split] if hasattr(found, "keys") else found
        else:
            dataset = datasets.load_dataset(name, split=split)
    except Exception as error:  # its readers and its transport have their own errors
        raise DataError(
            f"Hugging Face datasets cannot load the split {split} of {name} ({first_line(error)}): "
            "expected a folder that save_to_disk wrote or that load_dataset reads, or a name of "
            "the hub"
        ) from error
    features = dataset.features
    lost = [column for column in without if column not in features]
    if lost:
        raise DataError(f"{name} has the columns {list(features)}, and no {lost[0]!r}")
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    images = [key for key in images if key not in without]
    label = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if label:
        classes = features[label[0]].names
    elif "label" in features and features["label"].dtype.startswith("int"):
        label = ["label"]
    if len(images) != 1 or len(label) != 1:
        raise DataError(
            f"{name} has the columns {list(features)}: expected one of images and one of class "
            "labels"
        )
    if classes is None:
        raise ArgumentError(f"{name} does not name its classes: pass classes, or their number")
    return HuggingFaceRows(dataset, images[0], label[0], tuple(classes))
