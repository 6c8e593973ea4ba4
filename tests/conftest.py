"""Comes before every test module: the package is imported ahead of gRPC, which reads the cipher list once (SEC-1).

Owns two bounds on what a failing test costs, so that it is a readable failure on every machine:
a comparison that does not hold is explained in a few lines, and a test stopped by its timeout is reported whichever
instruction it was at.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import pytest

import hypercluster  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def comparisons_are_explained_briefly() -> Iterator[None]:
    """With either variable set, pytest prints whole diffs: of two lists of thousands that takes difflib minutes.

    The known-bad builds fail such comparisons on purpose. Whoever wants a whole diff asks for it with -vv.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CI", "BUILD_NUMBER"):
            patch.delenv(name, raising=False)
        yield


def numbered(traceback: TracebackType | None) -> TracebackType | None:
    """The same traceback with a line number in every entry.

    A timeout's signal may arrive at an instruction that has none, as the jump back at the end of a loop; pytest
    subtracts 1 from the missing number and the whole run ends in its INTERNALERROR.
    """
    if traceback is None:
        return None
    line = traceback.tb_lineno or line_before(traceback)
    return TracebackType(numbered(traceback.tb_next), traceback.tb_frame, traceback.tb_lasti, line)


def line_before(traceback: TracebackType) -> int:
    code = traceback.tb_frame.f_code
    lines = [line for start, _, line in code.co_lines() if line and start <= traceback.tb_lasti]
    return lines[-1] if lines else code.co_firstlineno


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None:
        error = call.excinfo.value
        call.excinfo = pytest.ExceptionInfo.from_exception(error.with_traceback(numbered(error.__traceback__)))
