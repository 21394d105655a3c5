"""The commands that judge generators of the MNIST variants."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_command

from train_generator.cli import mnist
from train_generator.cli.program import main
from train_generator.mnist import AppearanceJudge, Judges, load_shape_judge


def test_measure_shows_what_it_works_at_and_where_its_picture_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judges = Judges(load_shape_judge(), AppearanceJudge().eval(), None)
    monkeypatch.setattr(mnist, "load_judges", lambda *_, **__: judges)
    monkeypatch.chdir(tmp_path)
    words = ["measure", "colored", "colored-mnist", "--num=60", "--out=rows.png"]
    assert run_command(main, monkeypatch, *words) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "picture: rows.png"
    assert Path("rows.png").stat().st_size > 10_000
    for work in ("colored-mnist: ", "real data: 100%", "3/3"):
        assert work in told.err
    assert "\x1b[3" not in told.out + told.err  # no colour where nobody looks
