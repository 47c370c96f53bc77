"""Which events exist and which queues receive them, read from the options written in the proto files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from wireroom_protos.common.v1 import options_pb2


@dataclass(frozen=True)
class EventSpec:
    """One event type."""

    name: str
    payload: type[Message]
    consumers: frozenset[str]
    broadcast: bool


@dataclass(frozen=True)
class Catalogue:
    """All event types by their name."""

    events: Mapping[str, EventSpec]

    @classmethod
    def from_files(cls, *files: FileDescriptor) -> Catalogue:
        """Every message of the files that carries the `event` option."""
        events: dict[str, EventSpec] = {}
        for file in files:
            catch_all = set(file.GetOptions().Extensions[options_pb2.catch_all_consumers])
            for descriptor in file.message_types_by_name.values():
                option = descriptor.GetOptions().Extensions[options_pb2.event]
                if option.type:
                    events[option.type] = EventSpec(
                        option.type, GetMessageClass(descriptor), frozenset(catch_all | set(option.consumers)), option.broadcast
                    )
        return cls(events)

    def consumers(self) -> dict[str, frozenset[str]]:
        """Work queue name → the event types bound to it."""
        queues: dict[str, set[str]] = {}
        for spec in self.events.values():
            for consumer in spec.consumers:
                queues.setdefault(consumer, set()).add(spec.name)
        return {name: frozenset(types) for name, types in queues.items()}


def event_type(payload: Message) -> str:
    """The event type of a payload message; raises ValueError if its definition carries none."""
    name: str = payload.DESCRIPTOR.GetOptions().Extensions[options_pb2.event].type
    if not name:
        msg = f"{payload.DESCRIPTOR.full_name} is not an event: it has no `event` option."
        raise ValueError(msg)
    return name
