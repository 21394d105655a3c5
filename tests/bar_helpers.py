"""Bars of what may take long, as they are seen in a terminal once two seconds are over."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tqdm import tqdm


def watch_bars(monkeypatch: pytest.MonkeyPatch, *modules: str) -> list[tqdm[Any]]:
    """Returns a list that will hold the bars that modules make; they write to no terminal."""
    seen: list[tqdm[Any]] = []

    def make(*given: Any, **options: Any) -> tqdm[Any]:
        assert options["delay"] == 2
        assert options["disable"] is None  # off where there is no terminal
        shown = {**options, "delay": 0, "disable": False, "file": io.StringIO()}
        seen.append(tqdm(*given, **shown))
        return seen[-1]

    for module in modules:
        monkeypatch.setattr(f"{module}.tqdm", make)
    return seen
