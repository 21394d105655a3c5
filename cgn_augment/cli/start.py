"""What the commands start with: so light that Ctrl-C is one line while all else is imported."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Runs `cgn-augment`."""
    start("cgn-augment", "cgn_augment.cli.program")


def start(name: str, module: str) -> None:
    """Imports a program and runs it; Ctrl-C ends it with a line and exit status 130 at any time.

    Args:
        name: of the program.
        module: whose `main` runs it.
    """

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        # No exception: a package that is half imported makes errors of its own of it.
        os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    heeds = before is signal.default_int_handler  # and is not started behind nohup, for one
    if heeds:
        signal.signal(signal.SIGINT, leave)
    run = import_module(module).main
    try:
        if heeds:
            signal.signal(signal.SIGINT, before)
        run()
    except KeyboardInterrupt:  # a second one, while the first is told of
        sys.exit(INTERRUPTED)
    finally:
        if heeds:
            signal.signal(signal.SIGINT, leave)  # what ends the interpreter raises nothing either
