"""What ends an operation of several commands after some of them were accepted (D-8)."""

from __future__ import annotations

import errno

import pytest

from hypercluster.cli.main import EXIT_REFUSED, EXIT_UNKNOWN, exit_code
from hypercluster.client.file_ops import after_a_part
from hypercluster.errors import FencedError, HyperClusterError, NoQuorumError, Outcome, OutcomeUnknownError


@pytest.mark.req("D-8")
@pytest.mark.parametrize("error", [NoQuorumError("no leader"), FencedError("FENCED", "late", errno=errno.ESTALE)])
def test_a_part_that_was_done_is_not_definitely_not(error: HyperClusterError) -> None:
    assert exit_code(error) == EXIT_REFUSED
    with pytest.raises(type(error), match=r"\(a part was done\)$") as raised, after_a_part("a part was done"):
        raise error
    assert raised.value is error and raised.value.outcome is Outcome.UNKNOWN and exit_code(error) == EXIT_UNKNOWN
    with pytest.raises(type(error)) as again, after_a_part("and more"):
        raise error
    assert "and more" not in str(again.value)
    assert type(error).outcome is Outcome.DEFINITELY_NOT, "of this one alone"


def test_what_was_unknown_stays_as_it_was() -> None:
    with pytest.raises(OutcomeUnknownError, match=r"^who knows$"), after_a_part("a part was done"):
        raise OutcomeUnknownError("who knows")
