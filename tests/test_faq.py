"""docs/faq.md quotes what the code says."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from conftest import REPO

PAGE = (REPO / "docs" / "faq.md").read_text()
MESSAGES = [
    " ".join(found.split()) for found in re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
]
QUESTIONS = re.findall(r"^### (.*)$", PAGE, flags=re.MULTILINE)


@cache
def texts() -> dict[str, str]:
    """The literal text of each file of code, with … for what is filled in."""
    found = {}
    for package in ("cgn_augment", "train_generator"):
        for path in (REPO / package).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            found[path.relative_to(REPO).as_posix()] = " ".join(
                re.sub(r"%[ds]", "…", node.value)
                for node in nodes
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            )
    return found


def is_said(message: str) -> bool:
    """Whether one file of code has all pieces of a message."""
    pieces = [piece.strip() for piece in message.split("…")]
    return any(all(piece in text for piece in pieces) for text in texts().values())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_code(message: str) -> None:
    assert is_said(message)
    assert len(max(message.split("…"), key=len)) >= 20


def test_a_message_that_nobody_says_is_found_out() -> None:
    assert not is_said("this is said by nobody … at all")


def test_most_questions_have_a_message() -> None:
    assert len(QUESTIONS) == len(set(QUESTIONS)) >= 15
    assert len(MESSAGES) >= 15
