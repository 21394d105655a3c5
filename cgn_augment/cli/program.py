"""The command `cgn-augment`: generators, previews, masks, sets of shards and of parts."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from inspect import Parameter, signature
from io import TextIOWrapper
from typing import Any, NoReturn, get_type_hints

import torch
from jsonargparse import DefaultHelpFormatter, auto_cli

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

_OPTION = re.compile(r"--[a-z][\w.]*")

_ANSWERS = ("true", "false", "yes", "no", "on", "off", "0", "1", "null")
"""Values that may follow a switch."""

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
        facts |= {
            "architecture": "parts",
            "classes": ", ".join(f"{y} {name}" for y, name in network.names.items()),
            "images": ", ".join(f"{num} {verdict}" for verdict, num in network.counts.items()),
        }
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
    of_parts: dict[str, Any] = {
        "verify": parts.verify,
        "info": parts.info,
        "review": parts.review,
        "_help": "Takes photographs apart; 'parts info', 'parts review' and 'parts verify' look at "
        "the result.",
    }
    of_shards: dict[str, Any] = {
        "verify": shards.verify,
        "info": shards.info,
        "_help": "Renders counterfactuals into WebDataset shards; 'shards info' and 'shards "
        "verify' look at the result.",
    }
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
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = _find(commands, given)[1]
    given = plain_arguments(given, () if command is None else _switches(command))
    if isinstance(sys.stdout, TextIOWrapper):  # names of files need not be text of the terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        auto_cli(
            commands,
            prog=name,
            as_positional=isinstance(commands, dict),
            args=given,
            parser_mode=NAMES_AS_WRITTEN,
            formatter_class=_Help,
            allow_abbrev=False,  # a shortened name may mean another option tomorrow
            exit_on_error=False,  # else the usage of all options is printed before the error
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ArgumentError as error:
        message = plain_message(str(error))
        _stop(2, f"{name}: error: {message}; {_advise(message, name, commands, given)}")
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


class _Help(DefaultHelpFormatter):
    """Writes options with hyphens, as the documentation does; see `plain_arguments`."""

    def format_help(self) -> str:
        return _OPTION.sub(lambda found: found[0].replace("_", "-"), super().format_help())


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
    message = message.replace("Expected: list[int].", "Expected: list[int], such as '[0, 1]'.")
    return _CLASS.sub(lambda found: _KINDS.get(found[1], found[1]), message)


def _stop(status: int, message: str) -> NoReturn:
    print(one_line(message), file=sys.stderr)
    sys.exit(status)


def one_line(message: str) -> str:
    r"""Returns a message with its line ends and control characters written out.

    Names of files may hold both, and what moves the cursor of a terminal.

    Examples:
        >>> from cgn_augment.cli.program import one_line
        >>> print(one_line("no image in a" + chr(10) + chr(27) + "b é"))
        no image in a\n\x1bb é
    """
    escaped = (c if c.isprintable() else ascii(c)[1:-1] for c in message)
    return "".join(escaped)


def plain_arguments(arguments: Sequence[str], switches: Sequence[str]) -> list[str]:
    """Lets `--world-size` stand for `--world_size`, and a switch such as `--resume` stand alone.

    jsonargparse accepts only the second form, and expects a value after every option.

    Args:
        arguments: as they were typed.
        switches: names of the options that are true or false.

    Examples:
        >>> from cgn_augment.cli.program import plain_arguments
        >>> plain_arguments(["--world-size=2", "--resume", "--out", "my-set"], ["resume"])
        ['--world_size=2', '--resume=true', '--out', 'my-set']
    """
    plain = []
    for argument, after in zip(arguments, [*arguments, "--"][1:], strict=True):
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            name = option[2:].replace("-", "_")
            if name in switches and not equals and after.lower() not in _ANSWERS:
                equals, value = "=", "true"
            argument = f"--{name}{equals}{value}"
        plain.append(argument)
    return plain


def _switches(command: Callable[..., Any]) -> list[str]:
    """Returns the names of a command's options that are true or false, such as masking.largest."""
    found = []
    for name, kind in _kinds(command).items():
        if kind is bool:
            found.append(name)
        elif is_dataclass(kind):
            types = get_type_hints(kind)
            found += [f"{name}.{each.name}" for each in fields(kind) if types[each.name] is bool]
    return found


def _kinds(command: Callable[..., Any]) -> dict[str, Any]:
    return {p.name: p.annotation for p in signature(command, eval_str=True).parameters.values()}


def _find(
    commands: Commands | Callable[..., Any], given: Sequence[str]
) -> tuple[list[str], Callable[..., Any] | None]:
    """Returns the words that name a command, and the command if they do."""
    words = list(given)
    while isinstance(commands, dict) and words and words[0] in commands:
        commands = commands[words.pop(0)]
    called = list(given[: len(given) - len(words)])
    return called, commands if callable(commands) else None


def _advise(
    message: str, name: str, commands: Commands | Callable[..., Any], given: Sequence[str]
) -> str:
    """Returns what to do about a wrong command line.

    The form of the command, if what must be given is missing, or given in another form; the name of
    an option that looks like the one that is not known.
    """
    called, command = _find(commands, given)
    if command is None:
        return "--help lists what there is"
    parameters = signature(command).parameters.values()
    required = [each.name for each in parameters if each.default is Parameter.empty]
    unknown = message.partition("unrecognized arguments: ")[2].split()
    options = [word.partition("=")[0] for word in unknown if word.startswith("--")]
    places = isinstance(commands, dict)
    if (
        "arguments are required" in message
        or (places and {f"--{each}" for each in required} & set(options))
        or (unknown and not options)
    ):
        form = [each.upper() if places else f"--{each} {each.upper()}" for each in required]
        return f"write {' '.join([name, *called, *form])}"
    known = [f"--{each}" for each in _kinds(command)]
    close = [near for option in options for near in get_close_matches(option, known, 1)]
    meant = "".join(f"did you mean {near.replace('_', '-')}? " for near in close[:1])
    return f"{meant}--help lists what there is"
