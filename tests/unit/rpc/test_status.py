"""Errors on the wire: the table is complete, and the reason code survives the way."""

from __future__ import annotations

import importlib
import pkgutil

import grpc
import pytest

import hypercluster
from hypercluster import errors
from hypercluster.node.answers import REASONS
from hypercluster.rpc.status import STATUS_OF, error_info, rich_status, status_of


def tree(root: type[BaseException]) -> set[type[BaseException]]:
    return {root} | {kind for child in root.__subclasses__() for kind in tree(child)}


def ours() -> set[type[BaseException]]:
    return {
        kind
        for root in (errors.HyperClusterError, errors.FatalError)
        for kind in tree(root)
        if kind.__module__ == errors.__name__
    }


def test_the_table_names_every_error_of_the_tree() -> None:
    assert set(STATUS_OF) == ours()


def test_errors_defined_elsewhere_in_the_package_still_have_a_status() -> None:
    for module in pkgutil.walk_packages(hypercluster.__path__, "hypercluster."):
        if ".pb." not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for kind in tree(errors.HyperClusterError):
        if kind.__module__.startswith("hypercluster."):
            assert any(base in STATUS_OF for base in kind.__mro__), kind


@pytest.mark.req("D-8")
def test_every_status_says_what_is_known_of_the_outcome() -> None:
    for kind in ours():
        if not issubclass(kind, errors.HyperClusterError) or issubclass(
            kind, errors.NotLeaderError | errors.RateLimitedError | errors.RefusedError
        ):
            continue
        status = rich_status(kind("what happened"))
        info = error_info(status)
        assert info is not None
        assert info.reason == kind.reason
        assert info.metadata["outcome"] == kind.outcome.value
        assert status.message == "what happened"
        assert status.code == STATUS_OF[kind].value[0]


@pytest.mark.req("CL-13")
def test_hints_travel_beside_the_reason() -> None:
    hint = error_info(rich_status(errors.NotLeaderError("n2 leads", "n2:7801")))
    assert hint is not None and hint.metadata["leader_hint"] == "n2:7801"
    pause = error_info(rich_status(errors.RateLimitedError("slower", 12)))
    assert pause is not None and pause.metadata["retry_after_ms"] == "12"
    refused = error_info(rich_status(errors.RefusedError("ERRNO", "no such file", errno=2)))
    assert refused is not None and (refused.reason, refused.metadata["errno"]) == ("ERRNO", "2")


def test_an_unexpected_error_says_nothing_of_itself() -> None:
    status = rich_status(ValueError("password=hunter2"))
    assert "hunter2" not in str(status) and status_of(ValueError()) is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(rich_status(errors.DamagedError("hunter2")))


def test_every_turn_away_of_the_write_path_has_a_number() -> None:
    """What the proposer can answer is a Reason of the proto."""
    for kind in (
        errors.MalformedError, errors.TooLargeError, errors.NotLeaderError, errors.NoQuorumError, errors.QueueFullError,
        errors.RateLimitedError, errors.DiskFullError, errors.ShuttingDownError,
    ):  # fmt: skip
        assert kind.reason in REASONS, kind
