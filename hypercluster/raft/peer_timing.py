"""Times and gRPC limits of peer connections.

Owns: `PeerTiming` and the gRPC channel arguments made of it, the same on both sides where both matter.
Never: logic.
Invariants: a peer that stopped answering is noticed within keepalive_s + keepalive_timeout_s; a stranger holds a
descriptor for at most handshake_timeout_s + idle_s.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypercluster.credentials.tls import ChannelOption
from hypercluster.limits import KIB, PEER_CONNECTIONS_MAX
from hypercluster.raft.peer_wire import PEER_MESSAGE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class PeerTiming:
    retry_min_s: float = 0.05
    retry_max_s: float = 0.3
    dial_timeout_s: float = 3.0  # look-up, connection, both hellos
    hello_timeout_s: float = 3.0
    handshake_timeout_s: float = 5.0
    idle_s: float = 10.0  # a connection without a stream
    keepalive_s: float = 1.0
    keepalive_timeout_s: float = 2.0

    def _common(self) -> list[ChannelOption]:
        return [
            ("grpc.max_receive_message_length", PEER_MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", PEER_MESSAGE_BYTES_MAX),
            ("grpc.max_metadata_size", 4 * KIB),
            ("grpc.absolute_max_metadata_size", 8 * KIB),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            # A ping that is under way when the peer falls silent has a timeout of its own, a minute by default.
            ("grpc.http2.ping_timeout_ms", round(self.keepalive_timeout_s * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
        ]

    def listener_options(self) -> list[ChannelOption]:
        return [
            *self._common(),
            ("grpc.so_reuseport", 0),  # two processes on one port would share its connections in silence
            ("grpc.max_concurrent_streams", 2),
            # Strangers without a handshake must not use up the descriptors that the durable log needs.
            ("grpc.max_allowed_incoming_connections", PEER_CONNECTIONS_MAX),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_timeout_s * 1000)),
            ("grpc.max_connection_idle_ms", round(self.idle_s * 1000)),
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.keepalive_s * 500)),
        ]

    def dialer_options(self) -> list[ChannelOption]:
        return [
            *self._common(),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),  # a proxy of the environment has no place between nodes
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.use_local_subchannel_pool", 1),  # each attempt is one of its own, with the certificates of now
            ("grpc.min_reconnect_backoff_ms", round(self.dial_timeout_s * 1000)),
        ]
