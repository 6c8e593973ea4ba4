"""The generated stubs, which carry no types, behind functions that do.

Owns: nothing but this door.
"""

from __future__ import annotations

import grpc

from hypercluster.pb.v1 import cluster_pb2_grpc, coordination_pb2_grpc, hub_pb2_grpc, workspace_pb2_grpc


def cluster_service(channel: grpc.aio.Channel) -> cluster_pb2_grpc.ClusterServiceStub:
    return cluster_pb2_grpc.ClusterServiceStub(channel)  # type: ignore[no-untyped-call]


def hub_service(channel: grpc.aio.Channel) -> hub_pb2_grpc.HubServiceStub:
    return hub_pb2_grpc.HubServiceStub(channel)  # type: ignore[no-untyped-call]


def workspace_service(channel: grpc.aio.Channel) -> workspace_pb2_grpc.WorkspaceServiceStub:
    return workspace_pb2_grpc.WorkspaceServiceStub(channel)  # type: ignore[no-untyped-call]


def coordination_service(channel: grpc.aio.Channel) -> coordination_pb2_grpc.CoordinationServiceStub:
    return coordination_pb2_grpc.CoordinationServiceStub(channel)  # type: ignore[no-untyped-call]
