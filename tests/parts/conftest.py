"""Photographs that the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest
from part_helpers import make_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of two classes with masks."""
    return make_photos(tmp_path_factory.mktemp("photographs"))
