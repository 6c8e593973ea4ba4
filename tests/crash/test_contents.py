"""The second reading of histories on short ones that are good, and on one for each way of being bad (CH-6)."""

from __future__ import annotations

import json

import pytest

from hypercluster.pb.v1 import command_pb2, workspace_command_pb2
from tests.crash.contents import check_chains, files_of
from tests.demo.checker import LogLine

INODE = b"i" * 16


def line(log_index: int, file: workspace_command_pb2.FileCommand, *, at: int = 0, inode: bytes = INODE) -> LogLine:
    command = command_pb2.Command(file=file).SerializeToString()
    return LogLine("aa", log_index, log_index, log_index, command, inode, at)


def create(log_index: int, name: bytes) -> LogLine:
    place = workspace_command_pb2.Place(directory=bytes(16), name=name)
    return line(log_index, workspace_command_pb2.FileCommand(create=workspace_command_pb2.Create(place=place)))


def append(log_index: int, content: bytes, at: int) -> LogLine:
    write = workspace_command_pb2.Write(inode_id=INODE, append=True, inline=content)
    return line(log_index, workspace_command_pb2.FileCommand(write=write), at=at)


@pytest.mark.req("CH-6")
def test_appends_make_up_a_file() -> None:
    files, names, wrong = files_of([create(1, b"f"), append(2, b"one", 0), append(3, b"two", 3)])
    assert (files, names, wrong) == ({INODE: [b"one", b"two"]}, {b"f"}, [])


@pytest.mark.req("CH-6")
def test_an_append_that_began_elsewhere_is_found() -> None:
    assert files_of([create(1, b"f"), append(2, b"one", 0), append(3, b"two", 0)])[2]
    assert files_of([create(1, b"f"), append(2, b"one", 0), append(3, b"two", 6)])[2]


@pytest.mark.req("CH-6")
def test_an_operation_nobody_asks_for_is_found() -> None:
    unlink = workspace_command_pb2.FileCommand(unlink=workspace_command_pb2.Unlink())
    assert files_of([line(1, unlink)])[2]


def chain(*values: tuple[int, int, int]) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Of (number, upon, own version), oldest first."""
    listed = [(json.dumps({"number": number, "upon": upon}), version) for number, upon, version in values]
    return {("settings", "chain/00000"): listed[::-1], ("metadata", "c0/1"): [('"x"', 9)]}


@pytest.mark.req("CH-6")
def test_a_chain_that_counts_up_holds() -> None:
    assert check_chains(chain((1, 0, 5), (2, 5, 7), (3, 7, 20))) == []


@pytest.mark.req("CH-6")
@pytest.mark.parametrize(
    "values",
    [
        [(1, 0, 5), (3, 6, 7)],  # one was lost
        [(1, 0, 5), (2, 5, 7), (2, 5, 9)],  # the same version was replaced twice
        [(2, 5, 7)],  # the first was lost
    ],
)
def test_a_broken_chain_is_found(values: list[tuple[int, int, int]]) -> None:
    assert check_chains(chain(*values))
