"""Rewrites the words of a command line before they are parsed: presets, optional positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from train_generator.classifier.ensemble_config import PRESETS as CLASSIFIER_PRESETS
from train_generator.imagenet.config import PRESETS as IMAGENET_PRESETS

PRESETS: Mapping[str, Path] = {"imagenet": IMAGENET_PRESETS, "classifier": CLASSIFIER_PRESETS}
"""Folder with the YAML files of the presets, by command."""


def expand_preset(arguments: Sequence[str]) -> list[str]:
    """Replaces the name of a preset by its file; what follows it wins.

    An unknown name is left for the command to refuse.

    Examples:
        >>> from train_generator.cli.arguments import expand_preset
        >>> expanded = expand_preset(["imagenet", "--seed=1", "--preset", "paper"])
        >>> expanded[1].endswith("presets/paper.yaml"), expanded[2:]
        (True, ['--seed=1'])
    """
    if not arguments or arguments[0] not in PRESETS:
        return list(arguments)
    there = {path.stem: path for path in PRESETS[arguments[0]].glob("*.yaml")}
    kept, files, rest = [], [], iter(arguments[1:])
    for argument in rest:
        flag, equals, name = argument.partition("=")
        if flag == "--preset":
            name = name if equals else next(rest, "")
            if name in there:
                files.append(f"--config={there[name]}")
                continue
            argument = f"--preset={name}"
        kept.append(argument)
    return [arguments[0], *files, *kept]


def name_validation(arguments: Sequence[str]) -> list[str]:
    """Turns the optional second position of `classifier TRAIN VAL` into an option.

    Examples:
        >>> from train_generator.cli.arguments import name_validation
        >>> name_validation(["classifier", "data/train", "data/val", "--heads", "1"])
        ['classifier', 'data/train', '--validation=data/val', '--heads', '1']
        >>> name_validation(["classifier", "--heads", "1", "waterbirds:data"])
        ['classifier', '--heads', '1', 'waterbirds:data']
    """
    if not arguments or arguments[0] != "classifier":
        return list(arguments)
    named, places, before = [arguments[0]], 0, ""
    for argument in arguments[1:]:
        is_place = not argument.startswith("-") and not (
            before.startswith("-") and "=" not in before
        )
        places += is_place
        named.append(f"--validation={argument}" if is_place and places == 2 else argument)
        before = argument
    return named
