"""The command `cgn-augment`: generators, previews, masks, sets of shards and of parts."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from inspect import signature
from io import TextIOWrapper
from typing import Any, NoReturn

import torch
from jsonargparse import auto_cli

from cgn_augment.cli import masks as masks
from cgn_augment.cli import parts as parts
from cgn_augment.cli import shards as shards
from cgn_augment.cli.doctor import doctor
from cgn_augment.cli.generators import interpolate, sample
from cgn_augment.cli.plan import plan
from cgn_augment.cli.preview import preview
from cgn_augment.cli.screen import tell
from cgn_augment.cli.values import NAMES_AS_WRITTEN
from cgn_augment.errors import CGNError
from cgn_augment.generators import bundled_generators, read_metadata
from cgn_augment.generators.sheet import draw_cgn
from cgn_augment.parts import Parts
from cgn_augment.parts.opening import load_mechanisms
from cgn_augment.pictures.sheets import check_picture, save_figure

_UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)"
    r"(?:, <class 'NoneType'>)?\] Errors: .* Given value: "
)
_CLASS = re.compile(r"<class '(\w+)'>")
_KINDS = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}
_NO_MEMORY = "can't allocate memory", "Storage size calculation overflowed"
"""Texts of torch's errors on a CPU."""

_ASKED = re.compile(r"[Tt]ried to allocate [\d.]+ \w+")

Commands = dict[str, Callable[..., Any] | dict[str, Any]]


def info(cgn: str) -> None:
    """Prints the content of a checkpoint or a set of parts.

    Args:
        cgn: path of a .pth or .safetensors checkpoint, name of a bundled generator, or folder of
            parts.
    """
    network = load_mechanisms(cgn)
    facts: dict[str, Any] = {"image size": f"{network.image_size}x{network.image_size}"}
    if isinstance(network, Parts):
        facts |= {"architecture": "parts", "classes": network.names, "images": network.counts}
    else:
        facts |= {
            "architecture": network.architecture,
            **network.config,
            "parameters": sum(value.numel() for value in network.parameters()),
            **read_metadata(cgn),
        }
    for name, value in {**facts, "fingerprint": network.fingerprint}.items():
        tell(name, value, 16)
    tell("bundled", ", ".join(bundled_generators()) or "none in this version", 16)


def sheet(
    cgn: str,
    out: str,
    num: int = 10,
    seed: int = 0,
    size: int | None = None,
    device: str = "cpu",
) -> None:
    """Draws masks, foregrounds, backgrounds and counterfactuals into a picture.

    Args:
        cgn: path of a .pth or .safetensors checkpoint, name of a bundled generator, or folder of
            parts.
        out: the picture to write: .png, .jpg, .webp, .pdf or .svg.
        num: number of columns.
        seed: seed of noise and classes.
        size: parts only: side of the square images, in pixels; by default the median side of the
            parts' images.
        device: where to draw, such as cpu or cuda.
    """
    check_picture(out)  # before anything slow
    network = load_mechanisms(cgn, device=device, size=size)
    print(save_figure(draw_cgn(network, num, seed), out))


def main() -> None:
    """Runs the command line."""
    # Two commands have subcommands besides their own work.
    of_parts = {"verify": parts.verify, "info": parts.info, "review": parts.review}
    of_shards = {"verify": shards.verify, "info": shards.info}
    commands: Commands = {
        "info": info,
        "sheet": sheet,
        "sample": sample,
        "interpolate": interpolate,
        "preview": preview,
        "plan": plan,
        "masks": masks.write,
        "parts": of_parts,
        "shards": of_shards,
        "doctor": doctor,
    }
    own, under = [*sys.argv[1:], "", ""][:2]
    if own == "shards" and under not in of_shards:
        run_commands("cgn-augment shards", shards.render, sys.argv[2:])
    elif own == "parts" and under not in of_parts:
        run_commands("cgn-augment", {"parts": parts.write})
    else:
        run_commands("cgn-augment", commands)


def run_commands(
    name: str, commands: Commands | Callable[..., Any], arguments: Sequence[str] | None = None
) -> None:
    """Runs one of several commands; a user's error becomes one line and exit code 2.

    Args:
        name: name of the program.
        commands: functions by name, whose required arguments are positions; or one function, all of
            whose arguments are options.
        arguments: arguments; by default those of the command line.
    """
    given = plain_arguments(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # names of files need not be text of the terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        auto_cli(
            commands,
            prog=name,
            as_positional=isinstance(commands, dict),
            args=given,
            parser_mode=NAMES_AS_WRITTEN,
            allow_abbrev=False,  # a shortened name may mean another option tomorrow
            exit_on_error=False,  # else the usage of all options is printed before the error
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ArgumentError as error:
        message = plain_message(str(error))
        call = _places(commands, given)
        hint = f"write {name} {call}" if call else "--help lists what there is"
        _stop(2, f"{name}: error: {message}; {hint}")
    except (CGNError, OSError) as error:
        reason: object = without_traceback(str(error))
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
        _stop(2, f"{name}: error: {reason}")
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        asked = _ASKED.search(str(error))
        _stop(
            2,
            f"{name}: error: there is not enough memory{f' ({asked[0]})' if asked else ''}: lower "
            "what is held at once, such as the size of images or of a bank, or how many are drawn",
        )
    except OverflowError as error:
        _stop(2, f"{name}: error: a number is too large for this machine: {error}")
    except KeyboardInterrupt as stop:
        _stop(130, f"{name}: interrupted{'; ' if str(stop) else ''}{stop}")


def without_traceback(message: str) -> str:
    """Returns the original message of an error that a loader's worker passed on with its traceback.

    Examples:
        >>> from cgn_augment.cli.program import without_traceback
        >>> lines = "Caught DataError in DataLoader worker process 0.", "...", "DataError: why"
        >>> without_traceback(chr(10).join(lines))
        'why'
    """
    if not message.startswith("Caught ") or "DataLoader worker process" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2] or message


def _is_of_memory(error: BaseException) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(text in str(error) for text in _NO_MEMORY)


def plain_message(message: str) -> str:
    """Rewrites jsonargparse's message about a value as one line in the words of a command line.

    Examples:
        >>> from cgn_augment.cli.program import plain_message
        >>> lines = (
        ...     "Does not validate against any of the Union subtypes",
        ...     "Subtypes: [<class 'int'>, <class 'NoneType'>]",
        ...     "Errors:",
        ...     "  - Expected a <class 'int'>",
        ...     "  - Expected a <class 'NoneType'>",
        ...     "Given value type: <class 'str'>",
        ...     "Given value: many",
        ... )
        >>> plain_message('Parser key "size": ' + chr(10).join(lines))
        'Parser key "size": Expected: whole number. Got value: many'
    """
    message = " ".join(message.replace("typing.", "").split())
    message = _UNION.sub(r"Expected: \1. Got value: ", message)
    return _CLASS.sub(lambda found: _KINDS.get(found[1], found[1]), message)


def _stop(status: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(status)


def plain_arguments(arguments: Sequence[str]) -> list[str]:
    """Lets `--world-size` stand for `--world_size`, and `--resume` stand alone.

    jsonargparse accepts only the second form, and expects a value after every option.

    Examples:
        >>> from cgn_augment.cli.program import plain_arguments
        >>> plain_arguments(["--world-size=2", "--resume", "--out", "my-set"])
        ['--world_size=2', '--resume=true', '--out', 'my-set']
    """
    plain = []
    for argument, after in zip(arguments, [*arguments, "--"][1:], strict=True):
        name, equals, value = argument.partition("=")
        if argument == "--resume" and after.startswith("--"):
            equals, value = "=", "true"
        if name.startswith("--"):
            argument = f"--{name[2:].replace('-', '_')}{equals}{value}"
        plain.append(argument)
    return plain


def _places(commands: Commands | Callable[..., Any], given: Sequence[str]) -> str | None:
    """Returns the form of a command whose required arguments were given as options."""
    words = list(given)
    while isinstance(commands, dict) and words and words[0] in commands:
        commands = commands[words.pop(0)]
    if isinstance(commands, dict) or words == given:
        return None
    required = [
        parameter.name
        for parameter in signature(commands).parameters.values()
        if parameter.default is parameter.empty
    ]
    named = {word.partition("=")[0] for word in words} & {f"--{each}" for each in required}
    if not named:
        return None
    called = given[: len(given) - len(words)]
    return " ".join([*called, *map(str.upper, required)])
