"""Prints facts, one per line, to fit the width of the screen; when bars appear."""

from __future__ import annotations

import shutil
import sys
import textwrap

AT_WORK = 1e-6
"""Seconds before a bar appears: not before the first step, so that none precedes an error."""


def find_width() -> int | None:
    """Returns the columns of the screen; None if the output goes elsewhere, such as to a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def tell(name: str, value: object, column: int) -> None:
    """Prints a fact; on a screen, long ones are wrapped between words.

    Args:
        name: name of the fact, on the left.
        value: the fact, in one line.
        column: width of all names.

    Examples:
        >>> from cgn_augment.cli.screen import tell
        >>> tell("device", "cpu", 8)
        device   cpu
    """
    text, width = f"{name:{column}} {value}", find_width()
    if width is not None and len(text) > width:
        text = textwrap.fill(
            text,
            max(width, 2 * column),
            subsequent_indent=" " * (column + 1),
            break_long_words=False,
            break_on_hyphens=False,
        )
    print(text)
