"""What the leader turns away before it proposes: everything a look at the message's own bytes can tell (D-3).

Owns: the strict parsing of a Submit as a client sent it: sizes before allocation, no unknown fields, names and ids by
strict patterns, hub payloads by json_check.py. What it returns is what apply will read, so nothing is parsed twice.
Never: a look at replicated state, or at anything an earlier entry could change. errno verdicts (a name that is too
long, a mode that makes no sense) belong to apply.
Invariants: the only errors are MalformedError and TooLargeError, and each names the field and the limit.
"""

from __future__ import annotations

import re

from blake3 import blake3

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.limits import (
    AGENT_BYTES_MAX,
    BATCH_CHUNK_BYTES_MAX,
    CAUSE_BYTES_MAX,
    CHUNK_BYTES_MAX,
    CLIENT_MESSAGE_BYTES_MAX,
    COLLECT_CHUNKS_MAX,
    COMMAND_BYTES_MAX,
    HUB_KEY_BYTES_MAX,
    HUB_NAMESPACE_BYTES_MAX,
    HUB_PAYLOAD_BYTES_MAX,
    INLINE_BYTES_MAX,
    SCOPE_NAME_BYTES_MAX,
    SUBMIT_COMMANDS_MAX,
    WRITE_BYTES_MAX,
    WRITE_EXTENTS_MAX,
)
from hypercluster.log.claim_admission import check_open_leases, check_reap, check_reservation_ids
from hypercluster.log.coordination_admission import check_abandon, check_coordination, check_guards, check_lock_steps
from hypercluster.log.field_checks import HASH_BYTES, ID_BYTES, NUMBER_MAX
from hypercluster.log.field_checks import exactly as _exactly
from hypercluster.log.field_checks import sized as _size
from hypercluster.log.json_check import check_json
from hypercluster.pb.v1.command_pb2 import Command, Submit
from hypercluster.pb.v1.hub_command_pb2 import HUB_OP_TYPE_SET
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand, Place, Write
from hypercluster.state_machine.decoded import HubOp, Run
from hypercluster.state_machine.wire import parse_command, parse_submit, take_op, take_run

_SET = int(HUB_OP_TYPE_SET)
_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]*")
_WORKSPACE_NAME = re.compile(r"[a-z0-9._-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def admit(data: bytes, *, maintenance: bool = False) -> Run:
    """Parses one Submit. `maintenance` allows the commands that only the leader and operators propose."""
    _size("Submit", len(data), "CLIENT_MESSAGE_BYTES_MAX", CLIENT_MESSAGE_BYTES_MAX)
    submit = parse_submit(data)
    submit.DiscardUnknownFields()
    if submit.ByteSize() != len(data):
        raise MalformedError("Submit holds fields this version does not know, or is not in its shortest encoding")
    raws = tuple(submit.commands)
    _check_head(submit, len(raws))
    ops: list[HubOp | Command] = []
    for position, raw in enumerate(raws):
        if len(raw) > COMMAND_BYTES_MAX:
            _size(f"commands[{position}]", len(raw), "COMMAND_BYTES_MAX", COMMAND_BYTES_MAX)
        command = parse_command(raw, position)
        command.DiscardUnknownFields()
        if command.ByteSize() != len(raw):
            raise MalformedError(
                f"commands[{position}] holds fields this version does not know, or is not in its shortest encoding"
            )
        op = take_op(command)
        if type(op) is HubOp:
            _check_hub(op, position)
        else:
            _check_other(command, position, submit, maintenance)
        ops.append(op)
    if len(data) > BATCH_CHUNK_BYTES_MAX:
        _check_puts(ops, len(data))
    return take_run(submit, raws, tuple(ops))


def _check_puts(ops: list[HubOp | Command], size_bytes: int) -> None:
    """A message is never split, so one that puts chunks must not fill more than their part of a batch (WS-37)."""
    if any(not isinstance(op, HubOp) and op.WhichOneof("kind") == "chunk_put" for op in ops):
        _size("Submit with chunk_put", size_bytes, "BATCH_CHUNK_BYTES_MAX", BATCH_CHUNK_BYTES_MAX)


def _check_head(submit: Submit, count: int) -> None:
    _exactly("client_id", submit.client_id, ID_BYTES)
    if not 1 <= count <= SUBMIT_COMMANDS_MAX:
        error = TooLargeError if count else MalformedError
        raise error(f"commands holds {count}, limit SUBMIT_COMMANDS_MAX is 1 to {SUBMIT_COMMANDS_MAX}")
    if not 1 <= submit.first_seq <= NUMBER_MAX - count:
        raise MalformedError(f"first_seq is {submit.first_seq}, must be 1 to {NUMBER_MAX - count}")
    if submit.floor >= submit.first_seq:
        raise MalformedError(f"floor is {submit.floor}, must be below first_seq {submit.first_seq}")
    if submit.basis > NUMBER_MAX:
        raise MalformedError(f"basis is {submit.basis}, limit is {NUMBER_MAX}")
    if submit.workspace_id:
        _exactly("workspace_id", submit.workspace_id, ID_BYTES)
    if submit.HasField("origin"):
        _check_origin(submit.origin)


def _check_origin(origin: Origin) -> None:
    for field, text in (("agent", origin.agent), ("session", origin.session), ("change_set", origin.change_set)):
        _size(f"origin.{field}", len(text.encode()), "AGENT_BYTES_MAX", AGENT_BYTES_MAX)
        if text and not _NAME.fullmatch(text):
            raise MalformedError(f"origin.{field} must match {_NAME.pattern}")
    _size("origin.cause", len(origin.cause.encode()), "CAUSE_BYTES_MAX", CAUSE_BYTES_MAX)
    if _CONTROL.search(origin.cause):
        raise MalformedError("origin.cause holds a control character")


def _check_hub(op: HubOp, position: int) -> None:
    namespace, key, op_type, payload, expected = op
    if len(namespace) > HUB_NAMESPACE_BYTES_MAX or not _NAMESPACE.fullmatch(namespace):
        raise MalformedError(
            f"commands[{position}].hub.namespace must match {_NAMESPACE.pattern}, "
            f"limit HUB_NAMESPACE_BYTES_MAX is {HUB_NAMESPACE_BYTES_MAX}"
        )
    if not 1 <= len(key) <= HUB_KEY_BYTES_MAX:
        field = f"commands[{position}].hub.key"
        _size(field, len(key), "HUB_KEY_BYTES_MAX", HUB_KEY_BYTES_MAX)
        raise MalformedError(f"{field} is empty, limit HUB_KEY_BYTES_MAX is 1 to {HUB_KEY_BYTES_MAX}")
    if expected > NUMBER_MAX:
        raise MalformedError(f"commands[{position}].hub.expected_version is {expected}, limit is {NUMBER_MAX}")
    if len(payload) > HUB_PAYLOAD_BYTES_MAX:
        _size(f"commands[{position}].hub.payload", len(payload), "HUB_PAYLOAD_BYTES_MAX", HUB_PAYLOAD_BYTES_MAX)
    if op_type == _SET:
        fault = check_json(payload)
        if fault:
            raise MalformedError(f"commands[{position}].hub.payload {fault}")
    elif payload:
        raise MalformedError(f"commands[{position}].hub.payload must be empty unless op_type is SET")


def _check_other(command: Command, position: int, submit: Submit, maintenance: bool) -> None:
    where = f"commands[{position}]"
    match command.WhichOneof("kind"):
        case "file":
            _exactly("workspace_id", submit.workspace_id, ID_BYTES)
            _check_file(command.file, f"{where}.file")
        case "chunk_put":
            _exactly("workspace_id", submit.workspace_id, ID_BYTES)
            put = command.chunk_put
            _exactly(f"{where}.chunk_put.hash", put.hash, HASH_BYTES)
            if not put.content:
                raise MalformedError(f"{where}.chunk_put.content is empty")
            _size(f"{where}.chunk_put.content", len(put.content), "CHUNK_BYTES_MAX", CHUNK_BYTES_MAX)
            if blake3(put.content).digest() != put.hash:
                raise MalformedError(f"{where}.chunk_put.hash is not the BLAKE3-256 of its content")
        case "workspace_create":
            name = command.workspace_create.name
            _size(f"{where}.workspace_create.name", len(name.encode()), "SCOPE_NAME_BYTES_MAX", SCOPE_NAME_BYTES_MAX)
            if not _WORKSPACE_NAME.fullmatch(name) or name in {".", ".."}:
                raise MalformedError(f"{where}.workspace_create.name must match {_WORKSPACE_NAME.pattern}")
        case "coordination":
            _exactly("workspace_id", submit.workspace_id, ID_BYTES)
            check_coordination(command.coordination, f"{where}.coordination")
        case "abandon":
            check_abandon(command.abandon, submit.client_id, f"{where}.abandon")
        case "maintenance":
            if not maintenance:
                raise MalformedError(f"{where}.maintenance is not for clients")
            _check_maintenance(command, f"{where}.maintenance")
        case _:
            raise MalformedError(f"{where} holds no command")


def _check_file(file: FileCommand, where: str) -> None:
    kind = file.WhichOneof("op")
    if kind is None:
        raise MalformedError(f"{where} holds no operation")
    if file.guards:
        check_guards(file.guards, f"{where}.guards")
    if file.reservation_ids:
        check_reservation_ids(file.reservation_ids, f"{where}.reservation_ids")
    where = f"{where}.{kind}"
    op = getattr(file, kind)
    match kind:
        case "rename":
            _check_place(op.source, f"{where}.source")
            _check_place(op.target, f"{where}.target")
        case "create" | "mkdir" | "symlink" | "unlink" | "rmdir":
            _check_place(op.place, f"{where}.place")
        case "link":
            _exactly(f"{where}.inode_id", op.inode_id, ID_BYTES)
            _check_place(op.place, f"{where}.place")
        case _:
            _exactly(f"{where}.inode_id", op.inode_id, ID_BYTES)
            if kind == "write":
                _check_write(op, where)


def _check_place(place: Place, where: str) -> None:
    _exactly(f"{where}.directory", place.directory, ID_BYTES)
    name = place.name
    if not name or b"/" in name or b"\0" in name:
        raise MalformedError(f"{where}.name must be 1 byte or more, without '/' and NUL")


def _check_write(write: Write, where: str) -> None:
    if write.inline and write.pieces:
        raise MalformedError(f"{where} holds inline content and pieces, must be one of them")
    _size(f"{where}.inline", len(write.inline), "INLINE_BYTES_MAX", INLINE_BYTES_MAX)
    _size(f"{where}.pieces", len(write.pieces), "WRITE_EXTENTS_MAX", WRITE_EXTENTS_MAX, unit="pieces")
    total_bytes = 0
    for number, piece in enumerate(write.pieces):
        _exactly(f"{where}.pieces[{number}].hash", piece.hash, HASH_BYTES)
        end = piece.chunk_offset + piece.length
        if not piece.length or end > CHUNK_BYTES_MAX:
            raise MalformedError(
                f"{where}.pieces[{number}] covers {piece.chunk_offset} to {end}, "
                f"must be 1 byte or more within CHUNK_BYTES_MAX {CHUNK_BYTES_MAX}"
            )
        total_bytes += piece.length
    _size(f"{where}.pieces", total_bytes, "WRITE_BYTES_MAX", WRITE_BYTES_MAX)


def _check_maintenance(command: Command, where: str) -> None:
    match command.maintenance.WhichOneof("kind"):
        case "forget_lane":
            _exactly(f"{where}.forget_lane.client_id", command.maintenance.forget_lane.client_id, ID_BYTES)
        case "raise_versions_floor":
            floor_index = command.maintenance.raise_versions_floor.floor_index
            if floor_index > NUMBER_MAX:
                raise MalformedError(f"{where}.raise_versions_floor.floor_index is over {NUMBER_MAX}")
        case "trim_oplog":
            _exactly(f"{where}.trim_oplog.workspace_id", command.maintenance.trim_oplog.workspace_id, ID_BYTES)
        case "snapshot_mark":
            _exactly(f"{where}.snapshot_mark.workspace_id", command.maintenance.snapshot_mark.workspace_id, ID_BYTES)
        case "snapshot_drop":
            _exactly(f"{where}.snapshot_drop.workspace_id", command.maintenance.snapshot_drop.workspace_id, ID_BYTES)
        case "chunk_collect":
            collect = command.maintenance.chunk_collect
            _exactly(f"{where}.chunk_collect.workspace_id", collect.workspace_id, ID_BYTES)
            count = len(collect.hashes)
            _size(f"{where}.chunk_collect.hashes", count, "COLLECT_CHUNKS_MAX", COLLECT_CHUNKS_MAX, unit="hashes")
            for number, chunk_hash in enumerate(collect.hashes):
                _exactly(f"{where}.chunk_collect.hashes[{number}]", chunk_hash, HASH_BYTES)
        case "lock_steps":
            check_lock_steps(command.maintenance.lock_steps, f"{where}.lock_steps")
        case "open_lease_changes":
            check_open_leases(command.maintenance.open_lease_changes, f"{where}.open_lease_changes")
        case "reap":
            check_reap(command.maintenance.reap, f"{where}.reap")
        case _:
            raise MalformedError(f"{where} holds no command")
