"""What tests/conftest.py promises: whatever stops a test, its report can be written, and in time."""

from __future__ import annotations

import dis
import os
from types import FrameType, TracebackType

import pytest

from tests.conftest import numbered


def a_loop(frames: list[FrameType]) -> None:
    """Its jump back comes from two places and has no line of its own."""
    import sys

    frames.append(sys._getframe())
    seen: dict[int, int] = {}
    for number in range(3):
        if number in seen:
            if number > 5:
                seen[number] = 1
            else:
                seen[number] = 2


def interrupted_between_lines() -> TracebackType:
    """As when a signal comes at that jump; a line of -1 is looked up from the instruction when it is asked for."""
    frames: list[FrameType] = []
    a_loop(frames)
    jumps = [step.offset for step in dis.get_instructions(a_loop) if step.opname == "JUMP_BACKWARD"]
    unnumbered = [found for found in (TracebackType(None, frames[0], at, -1) for at in jumps) if line_of(found) is None]
    if not unnumbered:
        pytest.skip("this Python gives every jump a line")
    return unnumbered[0]


def line_of(traceback: TracebackType) -> int | None:
    return traceback.tb_lineno


def test_a_test_stopped_between_two_lines_is_reported() -> None:
    error = AssertionError("stopped").with_traceback(interrupted_between_lines())
    with pytest.raises(TypeError):  # what pytest makes of it by itself
        pytest.ExceptionInfo.from_exception(error).getrepr()
    error.with_traceback(numbered(error.__traceback__))
    shown = str(pytest.ExceptionInfo.from_exception(error).getrepr())
    assert "in a_loop" in shown or "def a_loop" in shown
    assert "stopped" in shown


def test_a_traceback_with_all_its_lines_stays_as_it_was() -> None:
    def inner() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        inner()
    assert entries(numbered(caught.tb)) == entries(caught.tb)
    assert len(entries(caught.tb)) == 2


def entries(traceback: TracebackType | None) -> list[tuple[FrameType, int, int]]:
    if traceback is None:
        return []
    return [(traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno), *entries(traceback.tb_next)]


def test_comparisons_are_explained_in_a_few_lines_on_every_machine(pytestconfig: pytest.Config) -> None:
    """A whole diff of these takes difflib longer than a test may run."""
    assert [name for name in ("CI", "BUILD_NUMBER") if name in os.environ] == []
    if pytestconfig.get_verbosity(pytest.Config.VERBOSITY_ASSERTIONS) > 1:
        pytest.skip("whole diffs were asked for")
    left, right = ([f"{side} {number * 7919 % 10_007:040d}" for number in range(2_000)] for side in "ab")
    with pytest.raises(AssertionError) as caught:
        assert left == right
    assert len(str(caught.value)) < 5_000
