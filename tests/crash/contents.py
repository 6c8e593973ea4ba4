"""Does the state agree with the op log, and do compare-and-set chains hold? For workspaces that only ever grow.

Owns: what every file must hold after the log's writes, fetched and compared; the chains of hub values. It is a second
reading of the history, beside tests/demo/checker.py, and like it imports generated messages only.
Never: overwrites, truncation or removal: the load it is made for does none of them, and a log with one is an error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping

import grpc
from blake3 import blake3

from hypercluster.pb.v1 import command_pb2, read_pb2, workspace_command_pb2, workspace_pb2
from tests.demo.checker import LogLine

SERVICE = "/hypercluster.v1.WorkspaceService/"
CHUNKS_AT_ONCE = 200
FILES_AT_ONCE = 8
STALE = read_pb2.ReadOptions(level=read_pb2.READ_LEVEL_BOUNDED_STALE)

Piece = bytes | tuple[bytes, int, int]  # content, or (chunk hash, where in the chunk, length)
Files = dict[bytes, list[Piece]]


def files_of(log: Iterable[LogLine]) -> tuple[Files, set[bytes], list[str]]:
    """Pieces of every file by inode, names in the root, and what is wrong with the log itself."""
    files: Files = {}
    sizes: dict[bytes, int] = {}
    names: set[bytes] = set()
    wrong: list[str] = []
    for line in log:
        file = command_pb2.Command.FromString(line.command).file
        match file.WhichOneof("op"):
            case "create":
                files.setdefault(line.inode_id, [])
                names.add(file.create.place.name)
            case "write":
                inode_id = file.write.inode_id
                at, written = sizes.get(inode_id, 0), _pieces(file.write)
                begins = line.applied_offset if file.write.append else file.write.offset
                if begins != at:
                    wrong.append(f"log_index {line.log_index} writes at {begins}, the file ends at {at}")
                files.setdefault(inode_id, []).extend(written)
                sizes[inode_id] = at + sum(len(p) if isinstance(p, bytes) else p[2] for p in written)
            case other:
                wrong.append(f"log_index {line.log_index} is a {other}, which nobody here asks for")
    return files, names, wrong


def _pieces(write: workspace_command_pb2.Write) -> list[Piece]:
    if write.pieces:
        return [(piece.hash, piece.chunk_offset, piece.length) for piece in write.pieces]
    return [write.inline]


async def compare_contents(channel: grpc.aio.Channel, workspace_id: bytes, log: list[LogLine]) -> list[str]:
    """Every file of this node against the log it served: same names, same bytes. Returns what differs."""
    files, names, wrong = files_of(log)
    found = await _list_root(channel, workspace_id)
    wrong += [f"{name!r} was made and is not there" for name in sorted(names - found)]
    wrong += [f"{name!r} is there and was never made" for name in sorted(found - names)]
    gate = asyncio.Semaphore(FILES_AT_ONCE)

    async def compare(inode_id: bytes, pieces: list[Piece]) -> str:
        async with gate:
            wanted = await _assemble(channel, workspace_id, pieces)
            present = await _read(channel, workspace_id, inode_id)
        if wanted == present:
            return ""
        return f"file {inode_id.hex()}: {len(present)} bytes are there, the log gives {len(wanted)}, or other ones"

    differ = await asyncio.gather(*(compare(inode_id, pieces) for inode_id, pieces in files.items()))
    return wrong + [words for words in differ if words]


async def _list_root(channel: grpc.aio.Channel, workspace_id: bytes) -> set[bytes]:
    read_dir = channel.unary_unary(
        SERVICE + "ReadDir",
        request_serializer=workspace_pb2.ReadDirRequest.SerializeToString,
        response_deserializer=workspace_pb2.ReadDirResponse.FromString,
    )
    names: list[bytes] = []
    while True:
        after = names[-1] if names else b""
        request = workspace_pb2.ReadDirRequest(read=STALE, workspace_id=workspace_id, after=after)
        answer = await read_dir(request, timeout=20)
        names += [entry.name for entry in answer.entries]
        if not answer.more:
            return set(names)


async def _read(channel: grpc.aio.Channel, workspace_id: bytes, inode_id: bytes) -> bytes:
    """A whole file without holes, by its extents."""
    extents = channel.unary_unary(
        SERVICE + "Extents",
        request_serializer=workspace_pb2.ExtentsRequest.SerializeToString,
        response_deserializer=workspace_pb2.ExtentsResponse.FromString,
    )
    pieces: list[Piece] = []
    at = 0
    while True:
        request = workspace_pb2.ExtentsRequest(read=STALE, workspace_id=workspace_id, inode_id=inode_id, from_offset=at)
        answer = await extents(request, timeout=20)
        for extent in answer.extents:
            if extent.offset != at:
                return b"a hole"
            pieces.append((extent.chunk_hash, extent.chunk_offset, extent.length))
            at += extent.length
        if not answer.more:
            content = await _assemble(channel, workspace_id, pieces)
            return content if answer.size == at else b"another size"


async def _assemble(channel: grpc.aio.Channel, workspace_id: bytes, pieces: list[Piece]) -> bytes:
    hashes = list(dict.fromkeys(piece[0] for piece in pieces if isinstance(piece, tuple)))
    chunks: dict[bytes, bytes] = {}
    for start in range(0, len(hashes), CHUNKS_AT_ONCE):
        chunks |= await _fetch(channel, workspace_id, hashes[start : start + CHUNKS_AT_ONCE])
    return b"".join(
        piece if isinstance(piece, bytes) else chunks[piece[0]][piece[1] : piece[1] + piece[2]] for piece in pieces
    )


async def _fetch(channel: grpc.aio.Channel, workspace_id: bytes, hashes: list[bytes]) -> dict[bytes, bytes]:
    fetch = channel.unary_stream(
        SERVICE + "FetchChunks",
        request_serializer=workspace_pb2.FetchChunksRequest.SerializeToString,
        response_deserializer=workspace_pb2.ChunkContent.FromString,
    )
    found: dict[bytes, bytes] = {}
    async for chunk in fetch(workspace_pb2.FetchChunksRequest(workspace_id=workspace_id, hashes=hashes), timeout=30):
        if chunk.absent or blake3(chunk.content).digest() != chunk.hash:
            found[chunk.hash] = b""  # what is made of it will differ
        else:
            found[chunk.hash] = chunk.content
    return found


def check_chains(versions: Mapping[tuple[str, str], list[tuple[str, int]]]) -> list[str]:
    """`versions` newest first, as the cluster lists them. Each value counts one up from the one it was put upon."""
    wrong: list[str] = []
    for (_, key), newest_first in versions.items():
        if not key.startswith("chain/"):
            continue
        number = version = 0
        for payload, own_version in reversed(newest_first):
            value = json.loads(payload)
            if (value["number"], value["upon"]) != (number + 1, version):
                wrong.append(f"{key}: {payload} stands upon number {number}, version {version}")
            number, version = value["number"], own_version
    return wrong
