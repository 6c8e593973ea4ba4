"""Frames between nodes: bounded before anything is allocated, checked before anything is believed.

Owns: `decode_frame`, which turns bytes of an authenticated peer into a PeerFrame whose fields are within limits, and
the meaning of a checkpoint offer.
Never: decides; keeps; answers.
Invariants: decode_frame raises MalformedError naming the field and the limit, or returns a frame in which entries
are consecutive, not empty and within ENTRY_BYTES_MAX, digests and hashes are 32 bytes, and pieces match their CRC
only if `piece_is_whole` says so (a damaged piece is the receiver's business, not the stream's end).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import google_crc32c
from google.protobuf.message import DecodeError

from hypercluster import limits
from hypercluster.errors import MalformedError
from hypercluster.pb.v1.peer_pb2 import (
    AppendEntries,
    CheckpointOffer,
    CheckpointPiece,
    ChunkReply,
    ChunkRequest,
    PeerFrame,
    PeerHello,
    SnapshotExchange,
)
from hypercluster.raft.membership import membership_from_entry, membership_to_entry
from hypercluster.snapshot_manifest import MANIFEST_BYTES_MAX
from hypercluster.values import CheckpointMeta, Digest, Index, Term

PROTOCOL: Final = 1
NUMBER_MAX: Final = 1 << 62  # terms, indexes and rounds beyond it can only be damage
CHECKPOINT_ID_BYTES_MAX: Final = 128
MESSAGE_BYTES_MAX: Final = 512


def decode_frame(content: bytes) -> PeerFrame:
    if len(content) > limits.PEER_FRAME_BYTES_MAX:
        raise MalformedError(f"peer frame is {len(content)} bytes, limit PEER_FRAME_BYTES_MAX")
    frame = PeerFrame()
    try:
        frame.ParseFromString(content)
    except DecodeError as error:
        raise MalformedError("peer frame is not a PeerFrame") from error
    match frame.WhichOneof("kind"):
        case "append":
            _check_append(frame.append)
        case "append_ack":
            ack = frame.append_ack
            _numbers(term=ack.term, match_index=ack.match_index, round=ack.round, digest_index=ack.digest_index)
            _sized("append_ack.digest", ack.digest, 32)
        case "pre_vote":
            vote = frame.pre_vote
            _numbers(term=vote.term, last_index=vote.last_index, last_term=vote.last_term)
        case "request_vote":
            request = frame.request_vote
            _numbers(term=request.term, last_index=request.last_index, last_term=request.last_term)
        case "pre_vote_reply":
            _numbers(term=frame.pre_vote_reply.term)
        case "vote_reply":
            _numbers(term=frame.vote_reply.term)
        case "term_notice":
            _numbers(term=frame.term_notice.term)
        case "timeout_now":
            _numbers(term=frame.timeout_now.term)
        case "hello":
            _check_hello(frame.hello)
        case "checkpoint_offer":
            _check_offer(frame.checkpoint_offer)
        case "checkpoint_piece":
            _check_piece(frame.checkpoint_piece)
        case "checkpoint_ack":
            _numbers(term=frame.checkpoint_ack.term, offset=frame.checkpoint_ack.offset)
            _at_most("checkpoint_ack.checkpoint_id", frame.checkpoint_ack.checkpoint_id, CHECKPOINT_ID_BYTES_MAX)
            _at_most("checkpoint_ack.message", frame.checkpoint_ack.message, 4 * MESSAGE_BYTES_MAX)
        case "chunk_request":
            _check_chunk_request(frame.chunk_request)
        case "chunk_reply":
            _check_chunk_reply(frame.chunk_reply)
        case "snapshot":
            _check_snapshot(frame.snapshot)
        case _:
            raise MalformedError("peer frame of no known kind")
    return frame


def _numbers(**fields: int) -> None:
    for name, number in fields.items():
        if number > NUMBER_MAX:
            raise MalformedError(f"peer frame: {name} is {number}, limit {NUMBER_MAX}")


def _sized(field: str, content: bytes, size_bytes: int) -> None:
    if content and len(content) != size_bytes:
        raise MalformedError(f"{field} is {len(content)} bytes, must be {size_bytes} or none")


def _at_most(field: str, content: bytes | str, size_max: int) -> None:
    if len(content) > size_max:
        raise MalformedError(f"{field} is {len(content)} long, limit {size_max}")


def _check_hello(hello: PeerHello) -> None:
    _sized("hello.incarnation", hello.incarnation, 16)
    _sized("hello.cluster_id", hello.cluster_id, 16)
    _at_most("hello.node_id", hello.node_id, limits.NODE_ID_BYTES_MAX)
    _at_most("hello.client_address", hello.client_address, limits.NODE_ADDRESS_BYTES_MAX)
    _at_most("hello.version", hello.version, 64)


def _check_append(append: AppendEntries) -> None:
    _numbers(
        term=append.term, prev_index=append.prev_index, prev_term=append.prev_term, commit_index=append.commit_index,
        round=append.round, digest_index=append.digest_index,
    )  # fmt: skip
    _sized("append.digest", append.digest, 32)
    if len(append.entries) > limits.APPEND_ENTRIES_MAX:
        raise MalformedError(f"append.entries holds {len(append.entries)}, limit {limits.APPEND_ENTRIES_MAX}")
    index, before = append.prev_index, append.prev_term
    for entry in append.entries:
        index += 1
        if entry.index != index:
            raise MalformedError(f"append.entries: index {entry.index} where {index} must follow")
        if not 1 <= len(entry.payload) <= limits.ENTRY_BYTES_MAX:
            raise MalformedError(f"append.entries[{index}]: {len(entry.payload)} bytes, limit ENTRY_BYTES_MAX")
        if not before <= entry.term <= append.term:
            raise MalformedError(f"append.entries[{index}]: term {entry.term} outside the frame's terms")
        before = entry.term


def _check_offer(offer: CheckpointOffer) -> None:
    _numbers(term=offer.term, index=offer.index, last_term=offer.last_term, bytes_total=offer.bytes_total)
    _at_most("checkpoint_offer.checkpoint_id", offer.checkpoint_id, CHECKPOINT_ID_BYTES_MAX)
    _sized("checkpoint_offer.digest", offer.digest, 32)


def _check_piece(piece: CheckpointPiece) -> None:
    _numbers(term=piece.term, offset=piece.offset)
    _at_most("checkpoint_piece.checkpoint_id", piece.checkpoint_id, CHECKPOINT_ID_BYTES_MAX)
    _at_most("checkpoint_piece.content", piece.content, limits.SNAPSHOT_PIECE_BYTES)


def _check_chunk_request(request: ChunkRequest) -> None:
    if len(request.hashes) > limits.CHUNK_REQUEST_HASHES_MAX:
        raise MalformedError(f"chunk_request holds {len(request.hashes)} hashes, limit CHUNK_REQUEST_HASHES_MAX")
    for chunk_hash in request.hashes:
        if len(chunk_hash) != 32:
            raise MalformedError(f"chunk_request: a hash of {len(chunk_hash)} bytes, must be 32")


def _check_chunk_reply(reply: ChunkReply) -> None:
    if len(reply.chunks) > limits.CHUNK_REQUEST_HASHES_MAX:
        raise MalformedError(f"chunk_reply holds {len(reply.chunks)} chunks, limit CHUNK_REQUEST_HASHES_MAX")
    for chunk in reply.chunks:
        if len(chunk.hash) != 32:
            raise MalformedError(f"chunk_reply: a hash of {len(chunk.hash)} bytes, must be 32")
        _at_most("chunk_reply.content", chunk.content, limits.CHUNK_BYTES_MAX)


def _check_snapshot(exchange: SnapshotExchange) -> None:
    match exchange.WhichOneof("kind"):
        case "request":
            _check_snapshot_of("snapshot.request", exchange.request.workspace_id, exchange.request.log_index)
            _check_pages("snapshot.request.pages", exchange.request.pages)
            for page_hash in exchange.request.pages:
                if len(page_hash) != 32:
                    raise MalformedError(f"snapshot.request: a hash of {len(page_hash)} bytes, must be 32")
        case "reply":
            reply = exchange.reply
            _check_snapshot_of("snapshot.reply", reply.workspace_id, reply.log_index)
            _check_pages("snapshot.reply.pages", reply.pages)
            for page in reply.pages:
                _at_most("snapshot.reply.pages", page, limits.CHUNK_BYTES_MAX)
            _at_most("snapshot.reply.manifest", reply.manifest.manifest, MANIFEST_BYTES_MAX)
        case _:
            raise MalformedError("snapshot: neither request nor reply")


def _check_snapshot_of(field: str, workspace_id: bytes, log_index: int) -> None:
    if len(workspace_id) != 16:
        raise MalformedError(f"{field}.workspace_id is {len(workspace_id)} bytes, must be 16")
    _numbers(log_index=log_index)


def _check_pages(field: str, pages: Sequence[bytes]) -> None:
    if len(pages) > limits.SNAPSHOT_PAGES_A_REQUEST_MAX:
        raise MalformedError(f"{field} holds {len(pages)}, limit SNAPSHOT_PAGES_A_REQUEST_MAX")


def piece_crc(content: bytes) -> int:
    return int(google_crc32c.value(content))


def piece_is_whole(piece: CheckpointPiece) -> bool:
    return piece_crc(piece.content) == piece.crc


def offer_of(meta: CheckpointMeta, term: int, round_number: int) -> CheckpointOffer:
    return CheckpointOffer(
        term=term,
        checkpoint_id=meta.checkpoint_id,
        index=meta.index,
        last_term=meta.term,
        digest=meta.digest,
        membership=membership_to_entry(meta.membership),
        membership_index=meta.membership.index,
        bytes_total=meta.bytes_total,
        last_stamp_ns=meta.last_stamp_ns,
        round=round_number,
    )


def meta_of(offer: CheckpointOffer) -> CheckpointMeta:
    """Raises MalformedError when the configuration in it is none."""
    return CheckpointMeta(
        checkpoint_id=offer.checkpoint_id,
        index=Index(offer.index),
        term=Term(offer.last_term),
        digest=Digest(offer.digest),
        membership=membership_from_entry(offer.membership, Index(offer.membership_index)),
        bytes_total=offer.bytes_total,
        last_stamp_ns=offer.last_stamp_ns,
    )
