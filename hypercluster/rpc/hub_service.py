"""HubService: reads of hub state at the freshness the caller asks for.

Owns: the bounds of an answer, and its conversion.
Never: another scope than the caller's own (HUB-15); a look at the state before the read is due (CL-10).
Invariants: an answer's content stays below READ_BYTES_MAX beyond its first record, and says whether more follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from hypercluster import limits
from hypercluster.errors import BehindError, MalformedError, TooLargeError
from hypercluster.node.reads import Reads
from hypercluster.pb.v1 import hub_pb2
from hypercluster.rpc.calls import Call
from hypercluster.rpc.reading import bounded, state_of, wish_of
from hypercluster.state_machine import queries
from hypercluster.state_machine.store import Reader
from hypercluster.values import Index

LIST_DEFAULT = 100
LIST_PAGE = 16
VERSIONS_MAX = 100
VERSIONS_A_TURN = 256  # passed over before others have their turn: about a millisecond


class HubService:
    def __init__(self, reader: Reader, reads: Reads) -> None:
        self._reader = reader
        self._reads = reads

    async def get(self, request: hub_pb2.HubGetRequest, call: Call) -> hub_pb2.HubGetResponse:
        _check_namespace(request.namespace)
        if not 1 <= len(request.keys) <= limits.READ_KEYS_MAX:
            raise MalformedError(f"keys: {len(request.keys)}, expected 1 to {limits.READ_KEYS_MAX}")
        for key in request.keys:
            _check_key("keys", key)
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        records, size_bytes = [], 0
        for key in request.keys:
            value = queries.hub_get(self._reader, call.caller.scope, request.namespace, key)
            if value is None:
                records.append(hub_pb2.HubRecord(key=key))
                continue
            size_bytes += len(value.payload)
            if size_bytes > limits.READ_BYTES_MAX and len(records) > 0:
                raise TooLargeError(
                    f"the values of these {len(request.keys)} keys take more than {limits.READ_BYTES_MAX} bytes: "
                    "ask for fewer at once"
                )
            records.append(hub_pb2.HubRecord(key=key, found=True, payload=value.payload, version=value.version))
        return hub_pb2.HubGetResponse(state=state_of(point), records=records)

    async def list(self, request: hub_pb2.HubListRequest, call: Call) -> hub_pb2.HubListResponse:
        _check_namespace(request.namespace)
        _check_length("prefix", request.prefix)
        _check_length("after", request.after)
        count_max = bounded("limit", request.limit, limits.READ_LIST_MAX, LIST_DEFAULT)
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        scope = call.caller.scope
        records: list[hub_pb2.HubRecord] = []
        size_bytes, after, more = 0, request.after, True
        while more and len(records) < count_max and size_bytes < limits.READ_BYTES_MAX:
            # A few at a time, so that large values are not all read before the answer is found to be full.
            page = min(LIST_PAGE, count_max - len(records))
            found, more = queries.hub_list(self._reader, scope, request.namespace, request.prefix, after, page)
            for key, value in found:
                size_bytes += len(key) + len(value.payload)
                if size_bytes > limits.READ_BYTES_MAX and records:
                    more = True
                    break
                after = key
                records.append(hub_pb2.HubRecord(key=key, found=True, payload=value.payload, version=value.version))
        return hub_pb2.HubListResponse(state=state_of(point), records=records, more=more)

    async def versions(self, request: hub_pb2.HubVersionsRequest, call: Call) -> hub_pb2.HubVersionsResponse:
        _check_namespace(request.namespace)
        _check_key("key", request.key)
        count_max = bounded("limit", request.limit, VERSIONS_MAX, LIST_DEFAULT)
        point = await self._reads.point(wish_of(request.read), call.timeout_s)
        if request.at_index > point.applied_index:
            raise BehindError(f"at_index {request.at_index}: this node has applied {point.applied_index}")
        asked = self._reader, call.caller.scope, request.namespace, request.key
        if request.at_index:
            found = await _last_of(queries.hub_version_steps(*asked, Index(request.at_index)))
        else:
            found = queries.hub_versions(*asked, None, count_max)
        versions: list[hub_pb2.HubVersion] = []
        size_bytes = 0
        for record in found:
            size_bytes += len(record.payload)
            if size_bytes > limits.READ_BYTES_MAX and versions:
                break
            versions.append(
                hub_pb2.HubVersion(
                    raft_index=record.raft_index,
                    ordinal=record.ordinal,
                    deleted=record.deleted,
                    payload=record.payload,
                    version=record.version,
                )
            )
        return hub_pb2.HubVersionsResponse(state=state_of(point), versions=versions)


async def _last_of(steps: Iterator[queries.HubVersionRecord | None]) -> list[queries.HubVersionRecord]:
    """A key may have had any number of versions since: others have their turn in between."""
    for number, found in enumerate(steps, 1):
        if found is not None:
            return [found]
        if number % VERSIONS_A_TURN == 0:
            await asyncio.sleep(0)
    return []


def _check_namespace(namespace: str) -> None:
    size_bytes = len(namespace.encode())
    if not 1 <= size_bytes <= limits.HUB_NAMESPACE_BYTES_MAX:
        raise MalformedError(f"namespace: {size_bytes} bytes, expected 1 to {limits.HUB_NAMESPACE_BYTES_MAX}")


def _check_key(name: str, key: bytes) -> None:
    if not key:
        raise MalformedError(f"{name}: a key has at least 1 byte")
    _check_length(name, key)


def _check_length(name: str, key: bytes) -> None:
    if len(key) > limits.HUB_KEY_BYTES_MAX:
        raise MalformedError(f"{name}: {len(key)} bytes, limit HUB_KEY_BYTES_MAX is {limits.HUB_KEY_BYTES_MAX}")
