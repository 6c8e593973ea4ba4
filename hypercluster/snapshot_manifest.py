"""The manifest of a workspace snapshot: its form, its checksum and who signed it (WS-53).

Owns: the form of the file (magic, version, a serialized SignedManifest) and what makes it a bad one.
Never: pages; where files lie. Servers and clients read it alike, so it stands here and not with the files.
Invariants: a manifest that is answered has its checksum, is of the version this program knows, and is for the workspace
and index it was asked for; `verified` has been signed by a node of this cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blake3 import blake3
from google.protobuf.message import DecodeError

from hypercluster.credentials import signatures
from hypercluster.credentials.certificates import KeyPair
from hypercluster.credentials.names import Role
from hypercluster.errors import DamagedError, MalformedError, WrongDirectoryError
from hypercluster.pb.v1 import snapshot_pb2 as pb

MAGIC: Final = b"HCWSNAPS"
VERSION: Final = 1
PURPOSE: Final = "snapshot"
HASH_BYTES: Final = 32
MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot: what it holds, and in which index pages its pages are listed."""

    workspace_id: bytes
    history_id: bytes
    log_index: int
    root: bytes
    index_pages: tuple[bytes, ...]
    page_count: int
    record_count: int
    bytes_total: int

    def encode(self) -> bytes:
        return pb.SnapshotManifest(
            version=VERSION,
            workspace_id=self.workspace_id,
            history_id=self.history_id,
            log_index=self.log_index,
            root=self.root,
            index_pages=self.index_pages,
            page_count=self.page_count,
            record_count=self.record_count,
            bytes_total=self.bytes_total,
        ).SerializeToString(deterministic=True)


def sign_manifest(manifest: Manifest, pair: KeyPair) -> pb.SignedManifest:
    """By the node's own TLS key."""
    content = manifest.encode()
    return pb.SignedManifest(
        manifest=content,
        checksum=blake3(content).digest(),
        signature=signatures.sign(pair, PURPOSE, content),
        certificate=pair.certificate_pem,
    )


def open_manifest(signed: pb.SignedManifest) -> Manifest:
    """Raises DamagedError, or WrongDirectoryError for one of a newer version."""
    if blake3(signed.manifest).digest() != signed.checksum:
        raise DamagedError("the manifest of a snapshot does not have its checksum")
    try:
        found = pb.SnapshotManifest.FromString(signed.manifest)
    except DecodeError as error:
        raise DamagedError("the manifest of a snapshot is not readable") from error
    if found.version > VERSION:
        raise WrongDirectoryError(f"a snapshot has format {found.version}, this version knows {VERSION}")
    if any(len(page_hash) != HASH_BYTES for page_hash in (*found.index_pages, found.root)):
        raise DamagedError("the manifest of a snapshot holds a hash that is none")
    return Manifest(
        found.workspace_id,
        found.history_id,
        found.log_index,
        found.root,
        tuple(found.index_pages),
        found.page_count,
        found.record_count,
        found.bytes_total,
    )


def verified(signed: pb.SignedManifest, trust_pem: bytes) -> tuple[Manifest, str]:
    """The manifest and the node that wrote it. Raises DamagedError."""
    manifest = open_manifest(signed)
    try:
        subject = signatures.verify(signed.certificate, trust_pem, PURPOSE, signed.manifest, signed.signature)
    except MalformedError as error:
        raise DamagedError(f"the manifest of a snapshot is not signed as it must be: {error}") from error
    if subject.role is not Role.NODE:
        raise DamagedError(f"the manifest of a snapshot is signed by {subject.uri()}, which is no node")
    return manifest, subject.name


def encode_file(signed: pb.SignedManifest) -> bytes:
    return MAGIC + bytes((VERSION,)) + signed.SerializeToString()


def decode_file(path: str, content: bytes) -> pb.SignedManifest:
    """Raises DamagedError, or WrongDirectoryError for one of a newer version."""
    if not content.startswith(MAGIC) or len(content) <= len(MAGIC):
        raise DamagedError(f"{path} is not the manifest of a snapshot")
    if content[len(MAGIC)] > VERSION:
        raise WrongDirectoryError(f"{path} has format {content[len(MAGIC)]}, this version knows {VERSION}")
    try:
        return pb.SignedManifest.FromString(content[len(MAGIC) + 1 :])
    except DecodeError as error:
        raise DamagedError(f"{path} is not the manifest of a snapshot") from error
