"""An RPC without a row in the authorisation table can not exist (SEC-2)."""

from __future__ import annotations

import importlib
import pathlib

import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import hypercluster.pb.v1 as generated
from hypercluster.rpc.authorisation import ACCESS, PEER_METHODS, Access
from hypercluster.rpc.server import SERVICES, bind, snake


def methods_of_the_protos() -> set[str]:
    found: set[str] = set()
    for file in sorted(pathlib.Path(generated.__file__).parent.glob("*_pb2.py")):
        module = importlib.import_module(f"hypercluster.pb.v1.{file.stem}")
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return found


@pytest.mark.req("SEC-2")
def test_the_table_and_the_protos_name_the_same_methods() -> None:
    third_party = {
        f"/{service.full_name}/{method.name}"
        for pb2 in (health_pb2, reflection_pb2)
        for service in pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(ACCESS) | PEER_METHODS == methods_of_the_protos() | third_party
    assert not set(ACCESS) & PEER_METHODS


def test_what_changes_the_cluster_itself_is_for_operators() -> None:
    assert ACCESS["/hypercluster.v1.ClusterService/TransferLeader"] is Access.OPERATOR


def test_a_service_without_a_method_of_its_proto_does_not_bind() -> None:
    class Half:
        async def get(self) -> None: ...

    with pytest.raises(AttributeError):
        bind(SERVICES["hypercluster.v1.HubService"], Half())


def test_every_served_service_is_known_to_reflection() -> None:
    pool = descriptor_pool.Default()
    for name in SERVICES:
        assert pool.FindServiceByName(name).full_name == name


def test_method_names_become_python_names() -> None:
    assert [snake(n) for n in ("Get", "WatchLog", "ReadDir")] == ["get", "watch_log", "read_dir"]
