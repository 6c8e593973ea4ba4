"""Hub operations of a client: get, list, set and delete with versions (HUB-1, HUB-3).

Owns: the typed face of hub commands and reads.
Never: retries, caches or optimistic answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercluster.client.answers import raise_unless_ok
from hypercluster.client.stubs import hub_service
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import hub_command_pb2, hub_pb2, read_pb2
from hypercluster.values import ReadLevel

if TYPE_CHECKING:
    from hypercluster.client.client import Client

LIST_PAGE = 500
VERSIONS_PAGE = 100  # what a node gives at most, however many it keeps (D-18)


@dataclass(frozen=True, slots=True)
class HubValue:
    """A key as it was read. `version` is the server_seq that wrote it, 0 when there is none."""

    key: bytes
    found: bool
    payload: bytes
    version: int
    raft_index: int
    staleness_ms: int
    node_id: str = ""  # which node answered


@dataclass(frozen=True, slots=True)
class HubVersion:
    """What a key held before. `ordinal` counts the commands of the entry at `raft_index`."""

    payload: bytes
    version: int
    raft_index: int
    ordinal: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class HubWritten:
    version: int
    raft_index: int


class Hub:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(
        self,
        namespace: str,
        key: bytes,
        *,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        min_index: int = 0,
    ) -> HubValue:
        request = hub_pb2.HubGetRequest(
            read=self._client.read_options(level, min_index), namespace=namespace, keys=[key]
        )
        answer: hub_pb2.HubGetResponse = await self._client.nodes.read(
            lambda channel, timeout: hub_service(channel).Get(request, timeout=timeout),
            f"get {namespace} {key.decode(errors='replace')}",
            any_node=level is ReadLevel.BOUNDED_STALE,
        )
        record = answer.records[0]
        return _value(record, answer.state)

    async def list(
        self, namespace: str, prefix: bytes = b"", *, level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> AsyncIterator[HubValue]:
        """Keys in byte order. Each page is a read of its own: a long listing is not one moment."""
        after = b""
        while True:
            request = hub_pb2.HubListRequest(
                read=self._client.read_options(level),
                namespace=namespace,
                prefix=prefix,
                after=after,
                limit=LIST_PAGE,
            )
            answer = await self._list_page(request, level)
            for record in answer.records:
                yield _value(record, answer.state)
            if not answer.more or not answer.records:
                return
            after = answer.records[-1].key

    async def _list_page(self, request: hub_pb2.HubListRequest, level: ReadLevel) -> hub_pb2.HubListResponse:
        answer: hub_pb2.HubListResponse = await self._client.nodes.read(
            lambda channel, timeout: hub_service(channel).List(request, timeout=timeout),
            f"list {request.namespace}",
            any_node=level is ReadLevel.BOUNDED_STALE,
        )
        return answer

    async def versions(
        self,
        namespace: str,
        key: bytes,
        *,
        limit: int = VERSIONS_PAGE,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        min_index: int = 0,
    ) -> Sequence[HubVersion]:
        """The newest `limit` values of a key that are still kept, newest first; deletions are among them."""
        request = hub_pb2.HubVersionsRequest(
            read=self._client.read_options(level, min_index), namespace=namespace, key=key, limit=limit
        )
        answer: hub_pb2.HubVersionsResponse = await self._client.nodes.read(
            lambda channel, timeout: hub_service(channel).Versions(request, timeout=timeout),
            f"list versions of {namespace} {key.decode(errors='replace')}",
            any_node=level is ReadLevel.BOUNDED_STALE,
        )
        return [HubVersion(v.payload, v.version, v.raft_index, v.ordinal, v.deleted) for v in answer.versions]

    async def set(
        self, namespace: str, key: bytes, payload: bytes, *, expected_version: int | None = None, lane: int = 0
    ) -> HubWritten:
        """`payload` is UTF-8 JSON. `expected_version` 0 means that the key must not exist."""
        return await self._write(namespace, key, hub_command_pb2.HUB_OP_TYPE_SET, payload, expected_version, lane)

    async def delete(
        self, namespace: str, key: bytes, *, expected_version: int | None = None, lane: int = 0
    ) -> HubWritten:
        return await self._write(namespace, key, hub_command_pb2.HUB_OP_TYPE_DEL, b"", expected_version, lane)

    async def _write(
        self,
        namespace: str,
        key: bytes,
        op_type: hub_command_pb2.HubOpType,
        payload: bytes,
        expected_version: int | None,
        lane: int,
    ) -> HubWritten:
        hub = hub_command_pb2.HubCommand(
            namespace=namespace, key=key, op_type=op_type, payload=payload, expected_version=expected_version
        )
        command = command_pb.Command(hub=hub).SerializeToString()
        settled = await self._client.lane(lane).submit(command)
        verb = "set" if op_type == hub_command_pb2.HUB_OP_TYPE_SET else "delete"
        raise_unless_ok(settled, f"{verb} {namespace} {key.decode(errors='replace')}")
        return HubWritten(settled.version, settled.raft_index)


def _value(record: hub_pb2.HubRecord, state: read_pb2.ReadState) -> HubValue:
    return HubValue(
        record.key,
        record.found,
        record.payload,
        record.version,
        state.applied_index,
        state.staleness_ms,
        state.node_id,
    )
