"""Progress: silent at first, then a line every few seconds where there is no terminal."""

import pytest

from sfumato.cli import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_without_a_terminal(clock, capsys):
    with progress.Progress("working", 100) as bar:
        for done in range(1, 101):
            clock[0] += 0.2
            bar.update(done)
    lines = capsys.readouterr().err.splitlines()
    # after 2 s 10 are done and 90 x 0.2 s are left; then every 5 s
    assert lines == [f"working: {done}/100, {(100 - done) * 0.2:.0f} s left" for done in (10, 35, 60, 85)]


def test_a_new_stage_is_said(clock, capsys):
    with progress.Progress("one", 10) as bar:
        clock[0] += 3
        bar.update(1)
        bar.stage("two", 5)
    assert capsys.readouterr().err.splitlines() == ["one: 1/10, 27 s left", "two"]


def test_short_work_says_nothing(clock, capsys):
    with progress.Progress("working", 3) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress.Progress("working", 10) as bar:
        clock[0] += 3
        bar.update(4)
    assert "10/10" in capsys.readouterr().err
