"""What a reload carries from process to process, in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen

from mailproxy.config import Config
from mailproxy.config.loader import load_bytes
from mailproxy.errors import ConfigError, Fault
from mailproxy.net.dial import Endpoint
from mailproxy.net.listener import BindPlace, Listener

Addresses = Mapping[str, Mapping[str, Sequence[Endpoint]]]
"""The addresses of servers with host names, by backend and server."""


@frozen(kw_only=True)
class ListenerInfo:
    """Where the workers listen, for the log and for checks. The sockets are the workers'."""

    frontend: str
    number: int
    port: int | None
    name: str
    address: str
    mode: str

    @classmethod
    def of(cls, listener: Listener) -> ListenerInfo:
        """Describe a listener that is open."""
        return cls(
            frontend=listener.frontend, number=listener.number, port=listener.port, name=listener.name,
            address=listener.address, mode=listener.bind.mode,
        )  # fmt: skip


@frozen(kw_only=True)
class ReloadDocument:
    """A configuration, as the control process has read it.

    All processes read the same text, also if the file changes meanwhile.

    Attributes:
        text: The text of the file.
        source: Its path.
        addresses: The addresses of new host names.
    """

    text: str
    source: str
    addresses: Addresses = field(factory=dict)

    def load(self) -> Config:
        """Return the configuration.

        Raises:
            ConfigError: It has faults.
        """
        return load_bytes(self.text.encode(), folder=Path(self.source).parent, source=self.source)

    def pack(self) -> dict[str, Any]:
        """Return a value for `write_value`."""
        addresses = {
            backend: {
                name: [(each.family, each.host, each.port) for each in endpoints]
                for name, endpoints in servers.items()
            }
            for backend, servers in self.addresses.items()
        }
        return {"text": self.text, "source": self.source, "addresses": addresses}

    @classmethod
    def unpack(cls, value: Mapping[str, Any]) -> ReloadDocument:
        """Return what was packed."""
        addresses = {
            backend: {
                name: tuple(Endpoint(*each) for each in endpoints) for name, endpoints in servers.items()
            }
            for backend, servers in value["addresses"].items()
        }
        return cls(text=value["text"], source=value["source"], addresses=addresses)


@frozen(kw_only=True)
class WorkerDocument:
    """A configuration that a worker is to use.

    Attributes:
        document: The configuration.
        generation: Its number.
        workers: Its number of workers.
        places: The binds of the sockets that follow.
    """

    document: ReloadDocument
    generation: int
    workers: int
    places: tuple[BindPlace, ...]

    def pack(self) -> dict[str, Any]:
        """Return a value for `write_value`."""
        return {
            "document": self.document.pack(),
            "generation": self.generation,
            "workers": self.workers,
            "places": self.places,
        }

    @classmethod
    def unpack(cls, value: Mapping[str, Any]) -> WorkerDocument:
        """Return what was packed."""
        return cls(
            document=ReloadDocument.unpack(value["document"]),
            generation=value["generation"],
            workers=value["workers"],
            places=tuple((name, index) for name, index in value["places"]),
        )


@frozen(kw_only=True)
class Commit:
    """A configuration that the supervisor uses for the workers that it forks from now on.

    Attributes:
        generation: Its number.
        workers: The number of workers.
        serving: How many of them use the configuration soon. The others begin when one has drained that has
            their slot.
        listeners: Where they listen.
    """

    generation: int
    workers: int
    serving: int
    listeners: tuple[ListenerInfo, ...]

    def pack(self) -> dict[str, Any]:
        """Return a value for `write_value`."""
        return {
            "generation": self.generation,
            "workers": self.workers,
            "serving": self.serving,
            "listeners": [asdict(each) for each in self.listeners],
        }


def pack_faults(error: ConfigError) -> dict[str, Any]:
    """Return a value for `write_value`."""
    faults = [(each.path, each.fact, each.line, each.column, each.name) for each in error.faults]
    return {"source": error.source, "faults": faults}


def unpack_answer(value: Mapping[str, Any]) -> Commit:
    """Return what the supervisor has done.

    Raises:
        ConfigError: It has refused, and changed nothing.
    """
    if "faults" in value:
        faults = [
            Fault(path, fact, line=line, column=column, name=name)
            for path, fact, line, column, name in value["faults"]
        ]
        raise ConfigError(faults, value["source"])
    return Commit(
        generation=value["generation"],
        workers=value["workers"],
        serving=value["serving"],
        listeners=tuple(ListenerInfo(**each) for each in value["listeners"]),
    )
