"""The making of a new cluster: identities, certificates and configuration files (CL-14, CL-15).

Owns: what `cluster init` and `dev` write, and where.
Never: touches a directory that holds a cluster already.
Invariants: every node gets the same founding members; private keys are readable by their owner only; the CA's key
stays beside the others, for the operator to take away.

    DIR/ca.pem ca.key             the authority
    DIR/client.toml client.pem client.key
    DIR/NODE/node.toml            relative paths: the directory can be moved to its host as it is
    DIR/NODE/tls/                 ca.pem node.pem node.key
    DIR/NODE/data/                identity, founding
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypercluster.config import VOTERS_ALLOWED, why_not_voters
from hypercluster.credentials.certificates import KeyPair, issue_client, issue_node, make_ca, write_file, write_pair
from hypercluster.errors import MalformedError, WrongDirectoryError
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.founding import create_founding
from hypercluster.storage.identity import (
    DirectoryLock,
    Identity,
    create_identity,
    new_cluster_id,
    new_history_id,
    new_incarnation,
)
from hypercluster.values import NO_INDEX, ClusterId, Incarnation, Member, Membership, NodeId, Suffrage

CLIENT_FILE = "client.toml"


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Where one node will listen. `host` is what the others dial."""

    name: str
    host: str
    client_port: int
    peer_port: int
    admin_port: int

    def client_address(self) -> str:
        return _address(self.host, self.client_port)

    def peer_address(self) -> str:
        return _address(self.host, self.peer_port)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def found_cluster(
    directory: Path,
    plans: Sequence[NodePlan],
    *,
    client_name: str = "operator",
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> ClusterId:
    """`settings` are further sections for every node.toml. Raises MalformedError or WrongDirectoryError."""
    if len(plans) not in VOTERS_ALLOWED:
        raise MalformedError(f"{len(plans)} nodes: {why_not_voters(len(plans))}")
    sections = {name: dict(values) for name, values in (settings or {}).items()}
    sections["access"] = {"admins": [client_name], **sections.get("access", {})}
    names = [plan.name for plan in plans]
    if len(set(names)) != len(names):
        raise MalformedError(f"nodes: two have the same name in {', '.join(names)}")
    if directory.exists() and any(directory.iterdir()):
        raise WrongDirectoryError(f"{directory} is not empty: choose a new directory, or remove what is there")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster_id, history_id = new_cluster_id(), new_history_id()
    ca = make_ca(cluster_id)
    incarnations = {plan.name: new_incarnation() for plan in plans}
    membership = founding_members(plans, incarnations)
    write_pair(ca, directory / "ca.pem", directory / "ca.key")
    for plan in plans:
        identity = Identity(cluster_id, NodeId(plan.name), incarnations[plan.name], history_id)
        _make_node(directory / plan.name, plan, identity, membership, ca, sections)
    write_pair(issue_client(ca, cluster_id, client_name), directory / "client.pem", directory / "client.key")
    nodes = ", ".join(f'"{plan.client_address()}"' for plan in plans)
    text = f'nodes = [{nodes}]\n\n[tls]\nca = "ca.pem"\ncert = "client.pem"\nkey = "client.key"\n'
    # Last: a directory with this file is complete.
    write_file(directory / CLIENT_FILE, text.encode())
    return cluster_id


def founding_members(plans: Sequence[NodePlan], incarnations: Mapping[str, Incarnation]) -> Membership:
    members = tuple(
        Member(NodeId(plan.name), incarnations[plan.name], plan.peer_address(), Suffrage.VOTER)
        for plan in sorted(plans, key=lambda p: p.name)
    )
    return Membership(NO_INDEX, len(plans), members)


def _make_node(
    directory: Path,
    plan: NodePlan,
    identity: Identity,
    membership: Membership,
    ca: KeyPair,
    settings: Mapping[str, Mapping[str, object]],
) -> None:
    tls, data_directory = directory / "tls", directory / "data"
    tls.mkdir(parents=True, mode=0o700)
    data_directory.mkdir(mode=0o700)
    write_file(tls / "ca.pem", ca.certificate_pem)
    hosts = [plan.host] if plan.host in ("127.0.0.1", "localhost") else [plan.host, "127.0.0.1", "localhost"]
    pair = issue_node(ca, identity.cluster_id, plan.name, hosts)
    write_pair(pair, tls / "node.pem", tls / "node.key")
    disk = PosixDisk()
    with DirectoryLock(str(data_directory)):
        create_identity(disk, str(data_directory), identity)
        create_founding(disk, str(data_directory), membership)
    write_file(directory / "node.toml", node_toml(plan, len(membership.members), settings).encode())


def node_toml(plan: NodePlan, voters: int, settings: Mapping[str, Mapping[str, object]]) -> str:
    """Paths are relative to the file."""
    sections: dict[str, dict[str, object]] = {
        "node": {"id": plan.name, "data": "data"},
        "listen": {
            "client": plan.client_address(),
            "peer": plan.peer_address(),
            "admin": f"127.0.0.1:{plan.admin_port}",
        },
        "tls": {"ca": "tls/ca.pem", "cert": "tls/node.pem", "key": "tls/node.key"},
        "cluster": {"voters": voters},
    }
    for section, values in settings.items():
        sections.setdefault(section, {}).update(values)
    blocks = []
    for section, values in sections.items():
        lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
        blocks.append("\n".join([f"[{section}]", *lines]))
    return "# Every setting not named here has its default: see docs/operations.md.\n" + "\n\n".join(blocks) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list() | tuple():
            return f"[{', '.join(_toml(one) for one in value)}]"
        case _:
            raise MalformedError(f"setting {value!r}: a text, a whole number, true, false or a list of them")
