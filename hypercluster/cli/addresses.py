"""Where clients reach the nodes of a cluster.

Owns: the look-up. Never: dials.
"""

from __future__ import annotations

from hypercluster.raft.peer_transport import GrpcPeerTransport
from hypercluster.values import NodeId


class ClientAddresses:
    """host:port of a node's client listener: our own, or as a peer told us."""

    def __init__(self, own: NodeId, own_address: str, transport: GrpcPeerTransport) -> None:
        self._own = own
        self._own_address = own_address
        self._transport = transport

    def __call__(self, node_id: NodeId) -> str:
        return self._own_address if node_id == self._own else self._transport.client_address(node_id)
