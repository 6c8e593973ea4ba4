"""What the leader turns away, and that it names the field and the limit."""

from __future__ import annotations

import contextlib
import time

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster import limits
from hypercluster.errors import MalformedError, Outcome, TooLargeError
from hypercluster.log.admission import admit
from hypercluster.log.json_check import check_json
from hypercluster.pb.v1.command_pb2 import Command, MaintenanceCommand, RaiseVersionsFloor, Submit
from hypercluster.pb.v1.hub_command_pb2 import HubCommand
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.pb.v1.workspace_command_pb2 import (
    ChunkPiece,
    ChunkPut,
    Create,
    FileCommand,
    Place,
    Rename,
    Truncate,
    WorkspaceCreate,
    Write,
)
from hypercluster.state_machine.decoded import NO_PRECONDITION, HubOp
from hypercluster.state_machine.wire import read_run
from tests.fakes.commands import client, hub_del, hub_set, submit

WORKSPACE = b"w" * 16
ROOT = bytes(16)


def file(**op: object) -> bytes:
    return Command(file=FileCommand(**op)).SerializeToString()  # type: ignore[arg-type]


def one(command: bytes) -> bytes:
    return submit(client(1), 1, [command], workspace=WORKSPACE)


def test_a_run_is_read_once_and_whole() -> None:
    raws = [hub_set(b"a", b'{"n":1}', expected=0), hub_del(b"b"), file(truncate=Truncate(inode_id=ROOT, size=3))]
    message = Submit(client_id=client(1), first_seq=7, floor=3, basis=9, workspace_id=WORKSPACE, commands=raws)
    message.origin.agent = "builder-1"
    run = admit(message.SerializeToString())
    assert run == read_run(message.SerializeToString())
    assert run.raws == tuple(raws)
    assert run.ops[0] == HubOp("metadata", b"a", 1, b'{"n":1}', 0)
    assert isinstance(run.ops[1], HubOp) and run.ops[1].expected_version == NO_PRECONDITION
    assert Origin.FromString(run.origin) == message.origin


@pytest.mark.req("D-12", "D-19")
def test_an_origin_has_one_encoding() -> None:
    message = Submit(client_id=client(1), first_seq=1, commands=[hub_set(b"k")])
    message.origin.CopyFrom(Origin(agent="a", session="s", cause="because ü", change_set="c" * 128))
    assert admit(message.SerializeToString()).origin == message.origin.SerializeToString(deterministic=True)


MALFORMED = {
    "client_id": Submit(client_id=b"x", first_seq=1, commands=[hub_set(b"k")]).SerializeToString(),
    "first_seq": submit(client(1), 0, [hub_set(b"k")]),
    "floor": submit(client(1), 5, [hub_set(b"k")], floor=5),
    "basis": submit(client(1), 1, [hub_set(b"k")], basis=1 << 63),
    "workspace_id": submit(client(1), 1, [hub_set(b"k")], workspace=b"short"),
    "commands holds 0": submit(client(1), 1, []),
    r"commands\[1\] does not parse": submit(client(1), 1, [hub_set(b"k"), b"\xff\xff"]),
    "Submit does not parse": b"\xff\xff\xff",
    r"commands\[0\] holds no command": one(b""),
    "namespace": one(hub_set(b"k", namespace="Settings")),
    "key is empty": one(hub_set(b"")),
    "payload must be empty": one(hub_set(b"k", b"1", op_type=2)),
    "payload is not JSON": one(hub_set(b"k", b"{")),
    "maintenance is not for clients": one(
        Command(
            maintenance=MaintenanceCommand(raise_versions_floor=RaiseVersionsFloor(floor_index=1))
        ).SerializeToString()
    ),
    "holds no operation": one(file()),
    "create.place.directory": one(file(create=Create(place=Place(directory=b"x", name=b"n")))),
    "create.place.name": one(file(create=Create(place=Place(directory=ROOT, name=b"a/b")))),
    "rename.target.name": one(
        file(rename=Rename(source=Place(directory=ROOT, name=b"a"), target=Place(directory=ROOT, name=b"\0")))
    ),
    "truncate.inode_id": one(file(truncate=Truncate(inode_id=b"x"))),
    "inline content and pieces": one(
        file(write=Write(inode_id=ROOT, inline=b"x", pieces=[ChunkPiece(hash=bytes(32), length=1)]))
    ),
    r"pieces\[0\] covers": one(file(write=Write(inode_id=ROOT, pieces=[ChunkPiece(hash=bytes(32))]))),
    r"pieces\[0\].hash": one(file(write=Write(inode_id=ROOT, pieces=[ChunkPiece(hash=b"x", length=1)]))),
    "hash is not the BLAKE3-256": one(Command(chunk_put=ChunkPut(hash=bytes(32), content=b"x")).SerializeToString()),
    "content is empty": one(Command(chunk_put=ChunkPut(hash=bytes(32))).SerializeToString()),
    "workspace_create.name": one(Command(workspace_create=WorkspaceCreate(name="Src")).SerializeToString()),
}


def put_of(content: bytes) -> bytes:
    return Command(chunk_put=ChunkPut(hash=blake3(content).digest(), content=content)).SerializeToString()


TOO_LARGE = {
    "CLIENT_MESSAGE_BYTES_MAX": bytes(limits.CLIENT_MESSAGE_BYTES_MAX + 1),
    "SUBMIT_COMMANDS_MAX": submit(client(1), 1, [hub_set(b"k")] * (limits.SUBMIT_COMMANDS_MAX + 1)),
    "COMMAND_BYTES_MAX": one(bytes(limits.COMMAND_BYTES_MAX + 1)),
    "HUB_KEY_BYTES_MAX": one(hub_set(b"k" * (limits.HUB_KEY_BYTES_MAX + 1))),
    "HUB_PAYLOAD_BYTES_MAX": one(hub_set(b"k", b"1" * (limits.HUB_PAYLOAD_BYTES_MAX + 1))),
    "INLINE_BYTES_MAX": one(file(write=Write(inode_id=ROOT, inline=bytes(limits.INLINE_BYTES_MAX + 1)))),
    "WRITE_EXTENTS_MAX": one(
        file(write=Write(inode_id=ROOT, pieces=[ChunkPiece(hash=bytes(32), length=1)] * (limits.WRITE_EXTENTS_MAX + 1)))
    ),
    "WRITE_BYTES_MAX": one(
        file(write=Write(inode_id=ROOT, pieces=[ChunkPiece(hash=bytes(32), length=limits.CHUNK_BYTES_MAX)] * 17))
    ),
    "CHUNK_BYTES_MAX": one(
        Command(chunk_put=ChunkPut(hash=bytes(32), content=bytes(limits.CHUNK_BYTES_MAX + 1))).SerializeToString()
    ),
    "BATCH_CHUNK_BYTES_MAX": submit(client(1), 1, [put_of(bytes(limits.CHUNK_BYTES_MAX))] * 5, workspace=bytes(16)),
    "SCOPE_NAME_BYTES_MAX": one(Command(workspace_create=WorkspaceCreate(name="a" * 129)).SerializeToString()),
}


@pytest.mark.req("D-3", "SEC-3")
@pytest.mark.parametrize("says", MALFORMED)
def test_malformed_names_the_field(says: str) -> None:
    with pytest.raises(MalformedError, match=says) as caught:
        admit(MALFORMED[says])
    assert caught.value.outcome is Outcome.DEFINITELY_NOT


@pytest.mark.req("D-3", "SEC-3", "HUB-1")
@pytest.mark.parametrize("limit", TOO_LARGE)
def test_too_large_names_the_limit(limit: str) -> None:
    with pytest.raises(TooLargeError, match=limit) as caught:
        admit(TOO_LARGE[limit])
    assert str(getattr(limits, limit)) in str(caught.value)


@pytest.mark.req("SEC-3", "WS-37")
def test_what_is_largest_still_passes() -> None:
    admit(one(hub_set(b"k" * limits.HUB_KEY_BYTES_MAX, b'"' + b"x" * (limits.HUB_PAYLOAD_BYTES_MAX - 2) + b'"')))
    admit(submit(client(1), 1, [hub_set(b"k")] * limits.SUBMIT_COMMANDS_MAX))
    admit(submit(client(1), 1, [put_of(bytes(limits.CHUNK_BYTES_MAX))] * 4, workspace=bytes(16)))
    pieces = [ChunkPiece(hash=bytes(32), length=limits.CHUNK_BYTES_MAX)] * 16
    admit(one(file(write=Write(inode_id=ROOT, pieces=pieces))))


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize("field", ["agent", "session", "cause", "change_set"])
def test_origins_are_bounded(field: str) -> None:
    for text, error in (("x" * 257, TooLargeError), ("a\nb", MalformedError)):
        message = Submit(client_id=client(1), first_seq=1, commands=[hub_set(b"k")])
        setattr(message.origin, field, text)
        with pytest.raises(error, match=f"origin.{field}"):
            admit(message.SerializeToString())


def with_unknown(message: bytes) -> bytes:
    return message + b"\xfa\x3f\x01x"  # field 1023, one byte


@pytest.mark.req("SEC-3")
def test_unknown_fields_stay_out_of_the_log() -> None:
    hub = HubCommand(namespace="metadata", key=b"k", op_type=1, payload=b"1").SerializeToString()  # type: ignore[arg-type]
    nested = b"\x0a" + bytes((len(with_unknown(hub)),)) + with_unknown(hub)
    assert Command.FromString(nested).hub.key == b"k"
    for message in (with_unknown(one(hub_set(b"k"))), one(with_unknown(hub_set(b"k"))), one(nested)):
        with pytest.raises(MalformedError, match="does not know"):
            admit(message)


@pytest.mark.req("HUB-1")
@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b'{"a":[1,-2.5,true,null,"\\u00fc \\ud83d\\ude00"]}', ""),
        (b" 7 ", ""),
        (b"9007199254740992", ""),
        (b"-9007199254740992", ""),
        (b"9007199254740993", "2^53"),
        (b"-9007199254740993", "2^53"),
        (b"1" * 5000, "2^53"),
        (b"1e308", ""),
        (b"1.7976931348623157e308", ""),
        (b"1.7976931348623159e308", "not finite"),
        (b"-1e309", "not finite"),
        (b"1e99999999999999999999", "not finite"),
        (b"1e-99999999999999999999", ""),
        (b"0e99999999999", ""),
        (b"0." + b"0" * 400 + b"1e700", ""),
        (b"0." + b"0" * 400 + b"1e720", "not finite"),
        (b"1" + b"0" * 309 + b".5", "not finite"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"-Infinity", "Infinity"),
        (b"[" * limits.HUB_JSON_DEPTH_MAX + b"]" * limits.HUB_JSON_DEPTH_MAX, ""),
        (b"[" * (limits.HUB_JSON_DEPTH_MAX + 1) + b"]" * (limits.HUB_JSON_DEPTH_MAX + 1), "HUB_JSON_DEPTH_MAX"),
        (b'"' + b"[{" * 500 + b'"', ""),
        (b"[]" * 2, "more than one"),
        (b"", "not JSON"),
        (b"'a'", "not JSON"),
        (b'"a\nb"', "not JSON"),
        (b'"\xff"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'"\\ud800"', "surrogate"),
        (b"\xef\xbb\xbf1", "not JSON"),
    ],
)
def test_json_every_reader_understands_alike(payload: bytes, fault: str) -> None:
    found = check_json(payload)
    assert (fault in found) if fault else not found


@pytest.mark.req("HUB-1")
@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(1, 10**18), st.integers(-340, 340), st.integers(0, 18))
def test_overflow_agrees_with_floating_point(digits: int, exponent: int, point: int) -> None:
    text = str(digits)
    text = f"{text[:point] or '0'}.{text[point:] or '0'}e{exponent}"
    overflows = float(text) == float("inf")
    assert (check_json(text.encode()) != "") == overflows


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 200_000,
        b"[[" * 40 + b'"' + b'\\"' * 130_000,
        b"[" + b"1," * 131_000 + b"1]",
        b"1e" + b"9" * 262_000,
        b"0." + b"1" * 262_000,
        b'{"a":' * 50_000,
    ],
)
def test_hostile_payloads_cost_little(payload: bytes) -> None:
    start = time.process_time()
    check_json(payload)
    assert time.process_time() - start < 1.0


@pytest.mark.req("SEC-3")
@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.data())
def test_no_bytes_raise_anything_else(noise: bytes, data: st.DataObject) -> None:
    whole = bytearray(submit(client(1), 1, [hub_set(b"k", b'{"a":1}'), file(truncate=Truncate(inode_id=ROOT))]))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place : place + data.draw(st.integers(0, 4))] = noise[:8]
    for message in (noise, bytes(whole)):
        with contextlib.suppress(MalformedError, TooLargeError):
            admit(message)
