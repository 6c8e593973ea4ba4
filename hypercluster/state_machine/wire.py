"""From the bytes of a Submit message to a `Run`, for whoever reads an entry, and the canonical bytes of an Origin.

Owns: the one place where command messages are parsed. `read_run` takes what already stands in the log, so it looks
at nothing but form: the leader made every other check before it proposed (log/admission.py, D-3).
Never: a re-serialization of what a client sent; `origin_bytes` writes a *new* record in our own encoding, because
protobuf promises no stable bytes (D-12).
Invariants: whatever the bytes, the only errors are MalformedError and TooLargeError.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from hypercluster.errors import MalformedError
from hypercluster.pb.v1.command_pb2 import Command, Submit
from hypercluster.pb.v1.origin_pb2 import Origin
from hypercluster.state_machine.decoded import NO_PRECONDITION, HubOp, Run
from hypercluster.values import ClientId, Index, Seq


def parse_submit(data: bytes) -> Submit:
    try:
        return Submit.FromString(data)
    except DecodeError as error:
        raise MalformedError("Submit does not parse as protobuf") from error


def parse_command(raw: bytes, position: int) -> Command:
    try:
        return Command.FromString(raw)
    except DecodeError as error:
        raise MalformedError(f"commands[{position}] does not parse as protobuf") from error


def take_op(command: Command) -> HubOp | Command:
    """The command as `Run.ops` holds it."""
    if not command.HasField("hub"):
        return command
    hub = command.hub
    expected = hub.expected_version if hub.HasField("expected_version") else NO_PRECONDITION
    return HubOp(hub.namespace, hub.key, hub.op_type, hub.payload, expected)


def take_run(submit: Submit, raws: tuple[bytes, ...], ops: tuple[HubOp | Command, ...]) -> Run:
    origin = origin_bytes(submit.origin) if submit.HasField("origin") else b""
    return Run(
        client_id=ClientId(submit.client_id),
        first_seq=Seq(submit.first_seq),
        floor=Seq(submit.floor),
        basis=Index(submit.basis),
        workspace_id=submit.workspace_id,
        origin=origin,
        raws=raws,
        ops=ops,
    )


def read_run(data: bytes) -> Run:
    """Parses a Submit that stands in the log."""
    submit = parse_submit(data)
    raws = tuple(submit.commands)
    ops = tuple([take_op(parse_command(raw, position)) for position, raw in enumerate(raws)])
    return take_run(submit, raws, ops)


def origin_bytes(origin: Origin) -> bytes:
    """Origin as protobuf, fields in order, empty ones left out: the same bytes on every node and release."""
    fields = (origin.agent, origin.session, origin.cause, origin.change_set)
    return b"".join([_text_field(number, text.encode()) for number, text in enumerate(fields, 1) if text])


def _text_field(number: int, text: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(text)) + text


def varint(number: int) -> bytes:
    """Unsigned LEB128, as protobuf has it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
