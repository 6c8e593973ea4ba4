"""Content of files on its way into and out of the cluster (WS-14, WS-32).

Owns: `ChunkDoor`: which chunks a workspace needs from us, putting them in on a lane of their own, and fetching
chunks with their hash verified.
Never: commands that use chunks; those wait until the chunks are in, on another lane.
Invariants: a chunk is sent once while it is on its way, however many files hold it; bytes on their way are bounded;
content whose BLAKE3 is not its name is never returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import grpc

from hypercluster.client.answers import raise_unless_ok
from hypercluster.client.chunking import hash_of
from hypercluster.client.stubs import workspace_service
from hypercluster.errors import FatalError, NotFoundError
from hypercluster.limits import CHUNK_BYTES_MAX, MIB
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1 import workspace_pb2

if TYPE_CHECKING:
    from hypercluster.client.client import Client

CHUNK_LANE = 1
ASKED_MAX = 500  # hashes in one ChunkNeed or FetchChunks
SENDING_BYTES_MAX = 16 * MIB
KNOWN_MAX = 200_000  # hashes remembered as present
FETCH_ROUNDS = 6
FETCH_PAUSE_S = 0.1


class ChunkDoor:
    """Chunks of one workspace."""

    def __init__(self, client: Client, workspace_id: bytes) -> None:
        self._client = client
        self._workspace_id = workspace_id
        self._known: dict[bytes, None] = {}
        self._on_its_way: dict[bytes, asyncio.Future[None]] = {}
        self._room = asyncio.Semaphore(SENDING_BYTES_MAX // CHUNK_BYTES_MAX)
        self._to_ask: dict[bytes, bytes] = {}
        self._asking: asyncio.Task[None] | None = None
        self._puts: set[asyncio.Task[None]] = set()
        self.sent = 0
        self.shared = 0

    async def ensure(self, chunks: Mapping[bytes, bytes]) -> None:
        """Returns once the cluster has every one of them. Raises what the first failure was."""
        waits: list[asyncio.Future[None]] = []
        for chunk_hash, content in chunks.items():
            if chunk_hash in self._known:
                continue
            future = self._on_its_way.get(chunk_hash)
            if future is None:
                await self._room.acquire()
                future = self._on_its_way.get(chunk_hash)
                if future is not None:  # another file brought it while we waited for room
                    self._room.release()
                else:
                    future = self._begin(chunk_hash, content)
            waits.append(future)
        for future in waits:
            await asyncio.shield(future)

    async def put_again(self, chunks: Mapping[bytes, bytes]) -> None:
        """For chunks the cluster says it lacks, whatever we remember."""
        for chunk_hash in chunks:
            self._known.pop(chunk_hash, None)
        await self.ensure(chunks)

    def _begin(self, chunk_hash: bytes, content: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._finished(chunk_hash))
        self._on_its_way[chunk_hash] = future
        self._to_ask[chunk_hash] = content
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return future

    def _finished(self, chunk_hash: bytes) -> Callable[[asyncio.Future[None]], None]:
        def done(future: asyncio.Future[None]) -> None:
            self._on_its_way.pop(chunk_hash, None)
            self._room.release()
            if future.cancelled() or future.exception() is not None:
                return
            self._known[chunk_hash] = None
            if len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]

        return done

    async def _ask(self) -> None:
        """ChunkNeed for everything gathered, then puts for what is missing; until nothing is left to ask."""
        while self._to_ask:
            await asyncio.sleep(0)  # let the others of this turn add theirs
            batch = dict(list(self._to_ask.items())[:ASKED_MAX])
            for chunk_hash in batch:
                del self._to_ask[chunk_hash]
            try:
                missing = await self._need(list(batch))
            except (Exception, FatalError) as error:  # also a defect: whoever waits must hear of it
                for chunk_hash in batch:
                    self._fail(chunk_hash, error)
                continue
            for chunk_hash, content in batch.items():
                if chunk_hash in missing:
                    task = asyncio.create_task(self._put(chunk_hash, content))
                    self._puts.add(task)
                    task.add_done_callback(self._puts.discard)
                else:
                    self.shared += 1
                    self._on_its_way[chunk_hash].set_result(None)
        self._asking = None

    async def _need(self, hashes: list[bytes]) -> set[bytes]:
        request = workspace_pb2.ChunkNeedRequest(workspace_id=self._workspace_id, hashes=hashes)
        answer: workspace_pb2.ChunkNeedResponse = await self._client.nodes.read(
            lambda channel, timeout: workspace_service(channel).ChunkNeed(request, timeout=timeout),
            "ask which chunks are missing",
        )
        return set(answer.missing)

    async def _put(self, chunk_hash: bytes, content: bytes) -> None:
        put = file_pb.ChunkPut(hash=chunk_hash, content=content)
        command = command_pb.Command(chunk_put=put).SerializeToString()
        try:
            settled = await self._client.lane(CHUNK_LANE).submit(command, self._workspace_id)
            raise_unless_ok(settled, f"put chunk {chunk_hash.hex()[:12]}")
        except (Exception, FatalError) as error:
            self._fail(chunk_hash, error)
            return
        self.sent += 1
        self._on_its_way[chunk_hash].set_result(None)

    def _fail(self, chunk_hash: bytes, error: BaseException) -> None:
        future = self._on_its_way[chunk_hash]
        future.set_exception(error)
        future.exception()  # whoever waits sees it; nobody has to

    # --- reading ------------------------------------------------------------------------------------

    async def fetch(self, hashes: Iterable[bytes]) -> dict[bytes, bytes]:
        """Verified content of each hash, from any node. Raises NotFoundError if no node gives one of them."""
        wanted = list(dict.fromkeys(hashes))
        found = await self.fetch_present(wanted)
        left = [h for h in wanted if h not in found]
        if left:
            raise NotFoundError(f"{len(left)} chunks are on no node, the first is {left[0].hex()}")
        return found

    async def fetch_present(self, wanted: list[bytes]) -> dict[bytes, bytes]:
        """Verified content of those hashes, each named once, that a node gives."""
        parts = [wanted[i : i + ASKED_MAX] for i in range(0, len(wanted), ASKED_MAX)]
        found: dict[bytes, bytes] = {}
        for got in await asyncio.gather(*(self._fetch_part(part) for part in parts)):
            found |= got
        return found

    async def _fetch_part(self, wanted: list[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for round_number in range(FETCH_ROUNDS):
            left = [h for h in wanted if h not in found]
            if not left:
                break
            if round_number:
                await asyncio.sleep(FETCH_PAUSE_S * round_number)
            await self._client.nodes.read(
                lambda channel, timeout, left=left: self._fetch_once(channel, timeout, left, found),  # type: ignore[misc]
                "fetch chunks",
                any_node=True,
            )
            if any(h not in found for h in wanted):
                # This node does not have them (yet), or what it has is damaged: the next one may.
                self._client.nodes.next_reader()
        return found

    async def _fetch_once(
        self, channel: grpc.aio.Channel, timeout_s: float, wanted: list[bytes], found: dict[bytes, bytes]
    ) -> None:
        request = workspace_pb2.FetchChunksRequest(workspace_id=self._workspace_id, hashes=wanted)
        stub = workspace_service(channel)
        answer: workspace_pb2.ChunkContent
        async for answer in stub.FetchChunks(request, timeout=timeout_s):
            if not answer.absent and hash_of(answer.content) == answer.hash:
                found[answer.hash] = answer.content
