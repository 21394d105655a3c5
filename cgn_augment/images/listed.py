"""Images listed in the user's table, as `table:FILE.csv`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from urllib.parse import parse_qsl

from cgn_augment.checks import require_choice
from cgn_augment.errors import ArgumentError, DataError
from cgn_augment.images.finding import name_some
from cgn_augment.images.image_table import (
    GROUP,
    ImageTable,
    some_masks,
    sort_names,
    split_name,
)
from cgn_augment.images.tables import number_in, read_table, require_columns

TABLE = "table:"

_ADVICE = ": say which of them holds what, as in table:FILE?path=file&label=y&mask=seg"


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table; "" for a column that is missing or not to be read.

    Columns left at None are read if the table has them; path and label are required.

    Attributes:
        path: paths of the images, relative to the table's folder, or URLs.
        label: names of classes, or numbers from 0.
        split: train, val, test or others.
        group: names or numbers.
        mask: paths of the masks, relative to the table's folder, or URLs; empty for an image
            without.
    """

    path: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    mask: str | None = None


def parse_table(place: str) -> tuple[Path, Columns]:
    """Splits the text after `table:` into the file and the names of its columns.

    Raises:
        ArgumentError: a kind of column is unknown.

    Examples:
        >>> from cgn_augment.images.listed import parse_table
        >>> path, columns = parse_table("photos.csv?path=file&label=y")
        >>> str(path), columns.path, columns.label, columns.group
        ('photos.csv', 'file', 'y', None)
    """
    file, mark, query = place.rpartition("?")
    if not mark or "=" not in query:
        return Path(place), Columns()
    named = parse_qsl(query, keep_blank_values=True)
    for column, _ in named:
        require_choice("a column of a table", column, tuple(Columns.__dataclass_fields__))
    return Path(file), Columns(**dict(named))


def read_listed(
    path: Path,
    columns: Columns = Columns(),
    *,
    classes: tuple[str, ...] | None = None,
    further: tuple[str, ...] = (),
) -> ImageTable:
    r"""Lists the images of a table.

    Args:
        path: a file that `read_table` reads.
        columns: names of its columns.
        classes: names by label; by default the labels themselves.
        further: further columns to keep.

    Returns:
        The images. Classes and groups are the same for every split.

    Raises:
        ArgumentError: a label is not a class.
        DataError: the table cannot be read or lacks a column; or a row lacks a path, a label, a
            split or a group.

    Examples:
        >>> from cgn_augment.images.listed import read_listed
        >>> path = getfixture("tmp_path") / "photos.csv"
        >>> size = path.write_text("path,label,group\n1.jpg,cat,day\n2.jpg,dog,night\n")
        >>> table = read_listed(path)
        >>> table.files, table.labels, table.groups.names
        (('1.jpg', '2.jpg'), (0, 1), ('day', 'night'))
    """
    path = path.expanduser()
    rows, place = read_table(path), f"{TABLE}{path}"
    there = {name for row in rows for name in row}
    names = {kind: _column(there, kind, name) for kind, name in vars(columns).items()}
    if not names["path"] or not names["label"]:
        raise ArgumentError(f"{place}: say which columns hold the paths and the labels")
    named = {kind: name for kind, name in names.items() if name}
    kept = [name for name in further if name != GROUP or not names["group"]]
    require_columns(rows, [*named.values(), *kept], place, _ADVICE)
    cells = {kind: [row[name] for row in rows] for kind, name in named.items()}
    for kind in ("path", "label", "split", "group"):
        _require_filled(kind, cells, place, names[kind])
    of_label = class_names_of(cells["label"], classes, place)
    known = classes or tuple(of_label.values())
    numbers = {name: number for number, name in enumerate(known)}
    table = ImageTable(
        place=place,
        root=path.parent,
        files=tuple(cells["path"]),
        labels=tuple(numbers[of_label[cell]] for cell in cells["label"]),
        classes=known,
        splits=tuple(split_name(cell) for cell in cells["split"]) if "split" in cells else None,
        masks=some_masks(cell or None for cell in cells.get("mask", [])),
        columns={name: tuple(row[name] for row in rows) for name in kept},
    )
    if "group" not in cells:
        return table
    groups = sort_names(set(cells["group"]))
    place_of = {name: number for number, name in enumerate(groups)}
    return table.with_groups([place_of[cell] for cell in cells["group"]], groups)


def class_names_of(
    labels: Sequence[str], classes: Sequence[str] | None, what: str
) -> dict[str, str]:
    """Returns the name of the class for each label that occurs, in the order of the classes.

    Args:
        labels: labels in the data: names, or numbers.
        classes: names by number; None uses the labels as names.
        what: what the data are, for errors.

    Raises:
        ArgumentError: a label is not one of the classes.

    Examples:
        >>> from cgn_augment.images.listed import class_names_of
        >>> class_names_of(["10", "9"], None, "a table")
        {'9': '9', '10': '10'}
        >>> class_names_of(["1", "0"], ["cat", "dog"], "a table")
        {'0': 'cat', '1': 'dog'}
    """
    ordered = sort_names(set(labels))
    if classes is None:
        return {label: label for label in ordered}
    known = set(classes)
    are_numbers = all(label.isdecimal() for label in ordered)
    found: dict[str, str] = {}
    foreign = []
    for label in ordered:
        number = number_in(label, len(classes)) if are_numbers else None
        if label in known:
            found[label] = label
        elif number is not None:
            found[label] = classes[number]
        else:
            foreign.append(shorten(label, 90))
    if foreign:
        raise ArgumentError(
            f"{what} has the labels {name_some(foreign)}, which are none of the {len(known)} "
            "classes, by name or by number from 0"
        )
    return found


def _column(there: Collection[str], kind: str, name: str | None) -> str:
    """Returns the name of a column; "" if it is not read."""
    if name is None:
        return kind if kind in there or kind in ("path", "label") else ""
    return name


def _require_filled(kind: str, cells: Mapping[str, Sequence[str]], place: str, name: str) -> None:
    holes = [row for row, cell in enumerate(cells.get(kind, ())) if not cell.strip()]
    if not holes:
        return
    more = f", like {len(holes) - 1} more rows" if len(holes) > 1 else ""
    or_without = f", or read the table without, with ?{kind}=" if kind in ("split", "group") else ""
    raise DataError(
        f"{place}: row {holes[0] + 1} ({cells['path'][holes[0]]}) has no {name}{more}: fill "
        f"{'them' if more else 'it'} in{or_without}"
    )
