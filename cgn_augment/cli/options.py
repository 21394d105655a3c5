"""Makes the options of a command from a dataclass of settings, so that each is written once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from inspect import Parameter, Signature, getdoc, signature
from typing import Any, get_type_hints

from cgn_augment.errors import ArgumentError


def settings_as_options(
    kind: type[Any], without: Collection[str] = (), **optional: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each setting of a dataclass, besides its own arguments.

    The first argument of the command is the dataclass. In the result its settings take the place of
    this argument, with their types, defaults and descriptions; `run_commands` accepts it.

    Args:
        kind: a dataclass with an "Attributes:" or an "Args:" section.
        without: settings with a default that are not options.
        optional: settings without a default that are options instead of positions, by name; the
            text is the error message if one is missing.

    Returns:
        A decorator for the function.

    Examples:
        >>> from dataclasses import dataclass
        >>> from inspect import signature
        >>> from cgn_augment.cli.options import settings_as_options
        >>> @dataclass(frozen=True)
        ... class Settings:
        ...     '''Settings of an example.
        ...
        ...     Attributes:
        ...         size: in pixels.
        ...     '''
        ...     size: int = 32
        >>> @settings_as_options(Settings)
        ... def command(settings: Settings, out: str = "here") -> None:
        ...     '''Does something.
        ...
        ...     Args:
        ...         settings: of the example.
        ...         out: where to write.
        ...     '''
        ...     print(settings, out)
        >>> print(signature(command))
        (*, size: int = 32, out: str = 'here') -> None
        >>> command(size=64)
        Settings(size=64) here
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        first, *own = signature(command, eval_str=True).parameters.values()
        options = [each for each in _options(kind, optional) if each.name not in without]
        names = [option.name for option in options]

        def run(**given: Any) -> None:
            settings = {name: given.pop(name) for name in names if name in given}
            for name, advice in optional.items():
                if settings.get(name) is None:
                    raise ArgumentError(advice)
            command(kind(**settings), **given)

        for option in own:
            required = option.default is Parameter.empty
            kind_of = Parameter.POSITIONAL_OR_KEYWORD if required else Parameter.KEYWORD_ONLY
            options.append(option.replace(kind=kind_of))
        made: Any = run
        made.__signature__ = Signature(
            sorted(options, key=lambda option: option.kind), return_annotation=None
        )
        made.__name__, made.__module__ = command.__name__, command.__module__
        made.__doc__ = _describe(command, kind, first.name)
        return run

    return decorate


def _options(kind: type[Any], optional: Mapping[str, str]) -> list[Parameter]:
    """Returns a keyword parameter for each setting, with its type and default."""
    types = get_type_hints(kind)
    options = []
    for setting in fields(kind):
        annotation, default = types[setting.name], setting.default
        form: Any = Parameter.KEYWORD_ONLY
        if setting.name in optional:
            annotation, default = annotation | None, None
        elif setting.default_factory is not MISSING:
            default = setting.default_factory()
        elif default is MISSING:
            default, form = Parameter.empty, Parameter.POSITIONAL_OR_KEYWORD
        options.append(Parameter(setting.name, form, default=default, annotation=annotation))
    return options


def _describe(command: Callable[..., None], kind: type[Any], argument: str) -> str:
    """Replaces the description of the settings argument by those of the settings."""
    section = re.search(
        r"^(?:Attributes|Args):\n((?: .*\n?|\n)+)", getdoc(kind) or "", flags=re.MULTILINE
    )
    settings = f"{section[1].rstrip()}\n" if section else ""
    told = re.compile(rf"^    {argument}:.*\n(?:      .*\n)*", flags=re.MULTILINE)
    return told.sub(lambda _: settings, f"{getdoc(command)}\n")
