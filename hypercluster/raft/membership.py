"""Configurations of the cluster: which one counts, and which step may follow (QUO-1).

Owns: the wire form of a configuration, `MembershipLog` (every configuration in the log above a checkpoint, newest
effective) and `step_refusal`.
Never: decides when to propose; counts votes.
Invariants: a configuration is effective from the moment its entry is appended, gone when the entry is truncated,
and what a checkpoint stores is the one committed by its index. Consecutive configurations differ by one member or
in `configured_voters`, so that any quorum of one meets any quorum of the next.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from hypercluster import limits
from hypercluster.errors import MalformedError, check
from hypercluster.log.entry import EntryType, decode_entry, encode_config
from hypercluster.pb.v1.entry_pb2 import ConfigEntry, ConfigMember
from hypercluster.values import Incarnation, Index, Member, Membership, NodeId, Suffrage

INCARNATION_BYTES = 16


def membership_to_entry(membership: Membership) -> ConfigEntry:
    return ConfigEntry(
        configured_voters=membership.configured_voters,
        members=[
            ConfigMember(
                node_id=m.node_id,
                incarnation=m.incarnation,
                address=m.address,
                suffrage=int(m.suffrage),
                promote=m.promote,
            )
            for m in membership.members
        ],
    )


def membership_from_entry(entry: ConfigEntry, index: Index) -> Membership:
    """Raises MalformedError naming the field and the limit."""
    if len(entry.members) > limits.VOTERS_MAX + limits.LEARNERS_MAX:
        raise MalformedError(f"members holds {len(entry.members)}, limit {limits.VOTERS_MAX + limits.LEARNERS_MAX}")
    if entry.configured_voters > limits.VOTERS_MAX:
        raise MalformedError(f"configured_voters is {entry.configured_voters}, limit {limits.VOTERS_MAX}")
    members: list[Member] = []
    for member in entry.members:
        if not 1 <= len(member.node_id.encode()) <= limits.NODE_ID_BYTES_MAX:
            raise MalformedError("node_id of a member must be 1 to NODE_ID_BYTES_MAX bytes")
        if len(member.incarnation) != INCARNATION_BYTES:
            raise MalformedError(f"incarnation of {member.node_id} must be {INCARNATION_BYTES} bytes")
        if len(member.address.encode()) > limits.NODE_ADDRESS_BYTES_MAX:
            raise MalformedError(f"address of {member.node_id} exceeds NODE_ADDRESS_BYTES_MAX")
        if member.suffrage not in (Suffrage.VOTER, Suffrage.LEARNER):
            raise MalformedError(f"suffrage of {member.node_id} is {member.suffrage}, must be 1 or 2")
        if member.promote and member.suffrage != Suffrage.LEARNER:
            raise MalformedError(f"promote of {member.node_id} is set, and it is no learner")
        members.append(
            Member(
                NodeId(member.node_id),
                Incarnation(member.incarnation),
                member.address,
                Suffrage(member.suffrage),
                member.promote,
            )
        )
    names = [m.node_id for m in members]
    if names != sorted(set(names)):
        raise MalformedError("members must be sorted by node_id, each once")
    return Membership(index, entry.configured_voters, tuple(members))


def encode_membership(membership: Membership) -> bytes:
    """The payload of a configuration entry."""
    return encode_config(membership_to_entry(membership).SerializeToString(deterministic=True))


def decode_membership(payload: bytes, index: Index) -> Membership:
    decoded = decode_entry(payload)
    check(decoded.kind is EntryType.CONFIG, "a configuration is read from a configuration entry")
    try:
        entry = ConfigEntry.FromString(decoded.config)
    except DecodeError as error:
        raise MalformedError("ConfigEntry does not parse as protobuf") from error
    return membership_from_entry(entry, index)


def is_config(payload: bytes) -> bool:
    return payload[:1] == bytes((EntryType.CONFIG,))


class MembershipLog:
    """The configurations that matter, oldest first: the one at the checkpoint, then one per entry above it."""

    def __init__(self, base: Membership) -> None:
        self._known: list[Membership] = [base]

    @property
    def current(self) -> Membership:
        return self._known[-1]

    @property
    def base(self) -> Membership:
        """Committed, unlike those above it."""
        return self._known[0]

    def append(self, membership: Membership) -> None:
        if membership.index == self.current.index and membership == self.current:
            return
        check(membership.index > self.current.index, "configurations are appended in order")
        self._known.append(membership)

    def truncate_from(self, index: Index) -> bool:
        """The entries from `index` on are gone. True when that took the effective configuration along."""
        kept = [m for m in self._known if m.index < index]
        check(bool(kept), "the configuration of the checkpoint can not be truncated")
        changed = len(kept) != len(self._known)
        self._known = kept
        return changed

    def at(self, index: Index) -> Membership:
        """The configuration in force once `index` is applied; what a checkpoint at `index` stores."""
        found = self._known[0]
        for membership in self._known[1:]:
            if membership.index > index:
                break
            found = membership
        return found

    def possible_members(self, commit_index: Index) -> tuple[Member, ...]:
        """Members of the newest configuration and of every one that a truncation may bring back. A node that heard
        only those of the newest could be deaf to the leader that is about to truncate it."""
        committed = self.at(commit_index).index
        found: dict[NodeId, Member] = {}
        for membership in self._known:
            if membership.index >= committed:
                found.update({m.node_id: m for m in membership.members})
        return tuple(found[node_id] for node_id in sorted(found))

    def forget_below(self, index: Index) -> None:
        """Compaction to `index`: the newest at or below it becomes the base."""
        base = self.at(index)
        self._known = [base, *(m for m in self._known if m.index > base.index)]


def step_refusal(current: Membership, wanted: Membership, reachable: Iterable[NodeId]) -> str:
    """'' when `wanted` may follow `current`, else why not, in words. `reachable` includes this node."""
    before = {m.node_id: m for m in current.members}
    after = {m.node_id: m for m in wanted.members}
    if [m.node_id for m in wanted.members] != sorted(after):
        return "members must be sorted by node_id, each once"
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if len(changed) > 1:
        return f"one member at a time: {', '.join(changed)} would change together"
    if not changed and wanted.configured_voters == current.configured_voters:
        return "nothing would change"
    for name in changed:
        old, new = before.get(name), after.get(name)
        if new is not None and new.suffrage is Suffrage.VOTER and old is None:
            return f"{name} joins as a learner first"
        if old is not None and new is not None and old.incarnation != new.incarnation:
            return f"{name} has another incarnation: remove the old one first"
    voters = wanted.voters()
    if not voters or len(voters) > limits.VOTERS_MAX:
        return f"{len(voters)} voters, limit 1 to {limits.VOTERS_MAX}"
    if len(after) - len(voters) > limits.LEARNERS_MAX:
        return f"{len(after) - len(voters)} learners, limit {limits.LEARNERS_MAX}"
    heard = set(reachable)
    count = sum(1 for m in voters if m.node_id in heard)
    if count < wanted.quorum():
        return f"{count} reachable voters would be left, {wanted.quorum()} are needed"
    return ""
