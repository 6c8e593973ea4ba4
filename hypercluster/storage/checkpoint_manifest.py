"""What a checkpoint is made of: the list of its files with sizes and BLAKE3 hashes, and what state they hold.

Owns: the manifest's encoding (format 1: magic, version, length, CRC-32C, then JSON with sorted keys) and the byte
stream a checkpoint travels as: the encoded manifest, then its files in the manifest's order.
Never: trusts a name, a size or a count of a manifest it reads: each is checked here before anything is made of it.
Invariants: `checkpoint_id` names the state (index and term), `bytes_total` is the length of the stream.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from hypercluster.errors import DamagedError, WrongDirectoryError, check
from hypercluster.limits import MIB
from hypercluster.values import (
    CheckpointMeta,
    Digest,
    HistoryId,
    Incarnation,
    Index,
    Member,
    Membership,
    NodeId,
    Suffrage,
    Term,
)

MAGIC: Final = b"HCCHECKP"
FORMAT_VERSION: Final = 1
HEADER: Final = struct.Struct(">8sIII")  # magic, version, length, CRC-32C of the JSON
MANIFEST_NAME: Final = "CHECKPOINT"
MANIFEST_BYTES_MAX: Final = 16 * MIB
FILES_MAX: Final = 100_000
FILE_NAME: Final = re.compile(r"(?:\d{6,20}\.(?:sst|blob)|MANIFEST-\d{6,20}|CURRENT)\Z")
CHECKPOINT_ID: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    name: str
    size_bytes: int
    blake3_hex: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`meta.bytes_total` counts the encoded manifest too; it is computed, not stored."""

    meta: CheckpointMeta
    history_id: HistoryId
    files: tuple[CheckpointFile, ...]


def checkpoint_id(index: Index, term: Term) -> str:
    return f"{index:016x}-{term:016x}"


def encode(
    index: Index,
    term: Term,
    digest: Digest,
    membership: Membership,
    last_stamp_ns: int,
    history_id: HistoryId,
    files: tuple[CheckpointFile, ...],
) -> bytes:
    body = json.dumps(
        {
            "digest": digest.hex(),
            "files": [[file.name, file.size_bytes, file.blake3_hex] for file in files],
            "history_id": history_id.hex(),
            "index": index,
            "last_stamp_ns": last_stamp_ns,
            "membership": {
                "configured_voters": membership.configured_voters,
                "index": membership.index,
                "members": [_member_row(member) for member in membership.members],
            },
            "term": term,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    check(len(body) <= MANIFEST_BYTES_MAX, "a manifest is bounded")
    return HEADER.pack(MAGIC, FORMAT_VERSION, len(body), google_crc32c.value(body)) + body


def encoded_bytes(start: bytes, where: str) -> int:
    """How long the manifest is that begins with these HEADER.size bytes. Raises as `decode` does."""
    if len(start) < HEADER.size:
        raise DamagedError(f"{where} is cut off")
    magic, version, length, _ = HEADER.unpack_from(start)
    if magic != MAGIC:
        raise DamagedError(f"{where} is no checkpoint manifest")
    if version > FORMAT_VERSION:
        raise WrongDirectoryError(
            f"{where} has checkpoint format {version}, this version knows {FORMAT_VERSION}: use the newer version"
        )
    if length > MANIFEST_BYTES_MAX:
        raise DamagedError(f"{where}: length {length} exceeds {MANIFEST_BYTES_MAX} bytes")
    return int(HEADER.size + length)


def decode(raw: bytes, where: str) -> Manifest:
    """`where` names the file or sender in errors: DamagedError, or WrongDirectoryError for a newer format."""
    if encoded_bytes(raw, where) != len(raw):
        raise DamagedError(f"{where} has {len(raw)} bytes, its header says otherwise")
    body = raw[HEADER.size :]
    if google_crc32c.value(body) != HEADER.unpack_from(raw)[3]:
        raise DamagedError(f"{where} fails its checksum")
    try:
        return _parse(json.loads(body), len(raw))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{where} is malformed: {error}") from error


def _parse(found: dict[str, object], manifest_bytes: int) -> Manifest:
    files = tuple(_file(row) for row in _rows(found["files"], FILES_MAX))
    if len({file.name for file in files}) != len(files):
        raise ValueError("files: a name stands twice")
    config = found["membership"]
    if not isinstance(config, dict):
        raise TypeError("membership is no object")
    members = tuple(_member(row) for row in _rows(config["members"], 1_000))
    index, term = Index(_number(found["index"])), Term(_number(found["term"]))
    meta = CheckpointMeta(
        checkpoint_id=checkpoint_id(index, term),
        index=index,
        term=term,
        digest=Digest(_hex(found["digest"], 32)),
        membership=Membership(Index(_number(config["index"])), _number(config["configured_voters"]), members),
        bytes_total=manifest_bytes + sum(file.size_bytes for file in files),
        last_stamp_ns=_number(found["last_stamp_ns"]),
    )
    return Manifest(meta, HistoryId(_hex(found["history_id"], 16)), files)


def _rows(value: object, count_max: int) -> list[list[object]]:
    if not isinstance(value, list) or len(value) > count_max or not all(isinstance(row, list) for row in value):
        raise ValueError(f"expected at most {count_max} rows")
    return value


def _file(row: list[object]) -> CheckpointFile:
    name, size_bytes, blake3_hex = row
    if not isinstance(name, str) or not FILE_NAME.match(name):
        raise ValueError("files: a name is not one of a checkpoint")
    return CheckpointFile(name, _number(size_bytes), _hex(blake3_hex, 32).hex())


def _member_row(member: Member) -> list[object]:
    """The fifth column stands there only where it says something: most manifests are as they always were."""
    row: list[object] = [member.node_id, member.incarnation.hex(), member.address, int(member.suffrage)]
    return [*row, 1] if member.promote else row


def _member(row: list[object]) -> Member:
    node_id, incarnation, address, suffrage, *promote = row
    if not isinstance(node_id, str) or not isinstance(address, str) or promote not in ([], [1]):
        raise TypeError("membership: a member is malformed")
    return Member(
        NodeId(node_id), Incarnation(_hex(incarnation, 16)), address, Suffrage(_number(suffrage)), bool(promote)
    )


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError("a number is not in 0..2^64-1")
    return value


def _hex(value: object, length: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * length:
        raise ValueError(f"expected {length} bytes in hexadecimal")
    return bytes.fromhex(value)
