"""A proof as a file: what stands at one path of a workspace, for those who have no cluster to ask (WS-35).

Owns: the format `hypercluster-proof/1`, reading it strictly, and what a proof that holds says.
Never: talks to a cluster; takes anything from the file on trust. Workspace, log index and checksum are what the file
claims: the root covers the tree alone, so whoever needs them compares the root with one of their own.
Invariants: a file is one canonical text: any other spelling of the same values is refused, and so is a file whose
checksum is not that of its text; `verify` answers from the root, the path and hashes only.
Content is checked by the file's extents, whose digest the inode's leaf covers; where an extent shows a part of its
chunk, the rest of that chunk stands beside it: without it the chunk's hash could not be computed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3

from hypercluster.client.chunking import hash_of
from hypercluster.errors import MalformedError
from hypercluster.limits import CHUNK_BYTES_MAX, MIB, PROOF_NAMES_MAX
from hypercluster.state_machine.workspace.content import content_digest
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.proofs import LeafProof, PathProof, verify_path
from hypercluster.state_machine.workspace.records import KIND_FILE, KIND_SYMLINK, Inode

FORMAT = "hypercluster-proof/1"
PROOF_FILE_BYTES_MAX = 64 * MIB
PROOF_EXTENTS_MAX = 65_536
PROOF_RESTS_BYTES_MAX = 16 * MIB


@dataclass(frozen=True, slots=True)
class ProvenExtent:
    """An extent, and what its chunk holds before and behind the part that the extent shows."""

    extent: Extent
    before: bytes = b""
    behind: bytes = b""


@dataclass(frozen=True, slots=True)
class ProofFile:
    """`extents` None: the file says nothing of its content but the digest. `target` is that of a symlink."""

    workspace_id: bytes
    log_index: int
    root: bytes
    names: tuple[bytes, ...]
    proof: PathProof
    extents: tuple[ProvenExtent, ...] | None = None
    target: bytes | None = None

    def encode(self) -> bytes:
        body: dict[str, Any] = {
            "format": FORMAT,
            "workspace_id": self.workspace_id.hex(),
            "log_index": self.log_index,
            "root": self.root.hex(),
            "path": [_shown(name) for name in self.names],
            "entries": [_leaf(entry) for entry in self.proof.entries],
            "inode": _leaf(self.proof.inode),
        }
        if self.extents is not None:
            body["extents"] = [_extent(found) for found in self.extents]
        if self.target is not None:
            body["target"] = _shown(self.target)
        text = json.dumps(body, ensure_ascii=True, indent=1)
        body["checksum"] = blake3(text.encode()).hexdigest()
        return (json.dumps(body, ensure_ascii=True, indent=1) + "\n").encode()

    def verify(self) -> Inode | None:
        """The covered attributes of what stands at the path under `root`; None if that is not shown."""
        inode = verify_path(self.root, self.names, self.proof)
        if inode is None or self.target is None:
            return inode
        # A symlink's digest is that of its target.
        shown = inode.kind == KIND_SYMLINK and hash_of(self.target) == inode.content_digest
        return replace(inode, target=self.target) if shown else None

    def verify_content(self, inode: Inode, content: bytes) -> str:
        """'' if the content is that of the proven inode, otherwise what is wrong."""
        if inode.kind != KIND_FILE:
            return "what is proven is not a file"
        if len(content) != inode.size:
            return f"it has {len(content)} bytes, the proven file {inode.size}"
        if self.extents is None:
            return "the proof file does not bring the file's extents, so content can not be checked against it"
        extents = [found.extent for found in self.extents]
        if not _is_sound(extents, inode.size) or content_digest(inode.size, extents) != inode.content_digest:
            return "the proof file's extents are not those of the proven file"
        at = 0
        for found in self.extents:
            extent = found.extent
            if content[at : extent.offset].strip(b"\0"):
                return f"it is not zero at {at} to {extent.offset}, where the proven file has a hole"
            part = content[extent.offset : extent.end]
            whole = found.before + part + found.behind
            if len(found.before) != extent.chunk_offset or hash_of(whole) != extent.chunk_hash:
                return f"it differs from the proven file in bytes {extent.offset} to {extent.end}"
            at = extent.end
        if content[at:].strip(b"\0"):
            return f"it is not zero from {at} on, where the proven file has a hole"
        return ""


def decode(text: bytes) -> ProofFile:
    """Raises MalformedError naming the field. Total: any bytes are answered with a proof file or that error."""
    if len(text) > PROOF_FILE_BYTES_MAX:
        raise MalformedError(f"proof: {len(text)} bytes, limit PROOF_FILE_BYTES_MAX is {PROOF_FILE_BYTES_MAX}")
    try:
        body = json.loads(text.decode("ascii"))
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise MalformedError(f"format: expected {FORMAT}")
        found = _decode(body)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise MalformedError(f"proof: not a proof file: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError(f"proof: a field is missing or has another form: {error!r}") from error
    if found.encode() != text:
        raise MalformedError("checksum: the file was changed after it was written")
    return found


def _decode(body: dict[str, Any]) -> ProofFile:
    names = tuple(_name(name) for name in body["path"])
    if len(names) > PROOF_NAMES_MAX:
        raise MalformedError(f"path: {len(names)} names, limit PROOF_NAMES_MAX is {PROOF_NAMES_MAX}")
    extents: tuple[ProvenExtent, ...] | None = None
    if "extents" in body:
        if len(body["extents"]) > PROOF_EXTENTS_MAX:
            raise MalformedError(f"extents: more than PROOF_EXTENTS_MAX, {PROOF_EXTENTS_MAX}")
        extents = tuple(_read_extent(row) for row in body["extents"])
    log_index = body["log_index"]
    if type(log_index) is not int or not 0 <= log_index < 1 << 64:
        raise MalformedError("log_index: expected a number of 64 bits")
    return ProofFile(
        bytes.fromhex(body["workspace_id"]),
        log_index,
        bytes.fromhex(body["root"]),
        names,
        PathProof(tuple(_read_leaf(entry) for entry in body["entries"]), _read_leaf(body["inode"])),
        extents,
        _name(body["target"]) if "target" in body else None,
    )


def _shown(name: bytes) -> object:
    """A name as people read it; one that is no UTF-8 as its bytes."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return {"hex": name.hex()}


def _name(shown: object) -> bytes:
    return shown.encode("utf-8") if isinstance(shown, str) else bytes.fromhex(shown["hex"])  # type: ignore[index]


def _leaf(proof: LeafProof) -> dict[str, object]:
    inners = [{"size": size, "hashes": hashes.hex()} for size, hashes in proof.inners]
    return {"text": proof.text.hex(), "inners": inners, "bucket": proof.bucket.hex()}


def _read_leaf(row: dict[str, Any]) -> LeafProof:
    inners = tuple((_whole(inner["size"]), bytes.fromhex(inner["hashes"])) for inner in row["inners"])
    return LeafProof(bytes.fromhex(row["text"]), inners, bytes.fromhex(row["bucket"]))


def _extent(found: ProvenExtent) -> dict[str, object]:
    extent = found.extent
    row: dict[str, object] = {
        "offset": extent.offset,
        "length": extent.length,
        "chunk": extent.chunk_hash.hex(),
        "chunk_offset": extent.chunk_offset,
    }
    if found.before:
        row["before"] = found.before.hex()
    if found.behind:
        row["behind"] = found.behind.hex()
    return row


def _read_extent(row: dict[str, Any]) -> ProvenExtent:
    offset, length, chunk_offset = (_whole(row[name]) for name in ("offset", "length", "chunk_offset"))
    chunk_hash = bytes.fromhex(row["chunk"])
    if len(chunk_hash) != 32 or length > CHUNK_BYTES_MAX or chunk_offset > CHUNK_BYTES_MAX:
        raise MalformedError("extents: an extent is of one chunk of at most 64 KiB, named by 32 bytes")
    return ProvenExtent(
        Extent(offset, length, chunk_offset, chunk_hash),
        bytes.fromhex(row.get("before", "")),
        bytes.fromhex(row.get("behind", "")),
    )


def _whole(number: object) -> int:
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise MalformedError(f"{number!r}: expected a whole number below 2^63")
    return number


def _is_sound(extents: list[Extent], size: int) -> bool:
    """In order, without overlap, within the file."""
    at = 0
    for extent in extents:
        if extent.offset < at or extent.length == 0:
            return False
        at = extent.end
    return at <= size
