"""A reload in the supervisor: it opens the sockets, and uses the configuration for the workers that it forks.

Whatever fails before `prepare_commit` returns changes nothing. `Committed.setup` is used from the next step on,
in which nothing can fail. Nothing here waits for another process: the supervisor must be able to fork.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Mapping, Sequence

from attrs import evolve, frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.config.difference import compare
from mailproxy.errors import Fault
from mailproxy.ipc.channel import DESCRIPTORS_MAX
from mailproxy.net.handover import SlotsHandover, hand_over_slots
from mailproxy.proxy.process import worker_count
from mailproxy.proxy.reload.preparation import apply_staged, check_ports, prepare
from mailproxy.workers.messages import batched
from mailproxy.workers.reload.document import Commit, ListenerInfo, ReloadDocument, WorkerDocument
from mailproxy.workers.reload.layout import LayoutFullError
from mailproxy.workers.reload.messages import ReloadSockets
from mailproxy.workers.setup import Setup


@frozen
class Committed:
    """A configuration with everything that can fail opened and loaded.

    Attributes:
        setup: What workers are forked with.
        document: The configuration, for the workers that run.
        handover: Its listeners.
        workers: Its number of workers.
        leaving: The slots of workers that drain.
    """

    setup: Setup
    document: ReloadDocument
    handover: SlotsHandover
    workers: int
    leaving: Collection[int]

    @property
    def answer(self) -> Commit:
        """What the control process gets to know."""
        return Commit(
            generation=self.setup.generation,
            workers=self.workers,
            serving=self.workers - sum(slot < self.workers for slot in self.leaving),
            listeners=tuple(self.setup.listener_infos),
        )

    def worker_document(self, slot: int) -> WorkerDocument:
        """Return what the worker of a slot gets to know."""
        return WorkerDocument(
            document=self.document,
            generation=self.setup.generation,
            workers=self.workers,
            places=tuple((each.frontend, each.number - 1) for each in self.setup.listeners_of(slot)),
        )

    def socket_messages(self, slot: int) -> Iterator[tuple[ReloadSockets, Sequence[socket.socket]]]:
        """Yield the messages with the sockets of a slot, in the order of the document's places."""
        sockets = [each.socket for each in self.setup.listeners_of(slot)]
        for part in batched(sockets, DESCRIPTORS_MAX):
            yield ReloadSockets(self.setup.generation, len(part)), part


def prepare_commit(
    setup: Setup, document: ReloadDocument, *, leaving: Collection[int], is_stopping: bool
) -> Committed:
    """Load and open what a configuration needs. Changes nothing that is in use.

    Args:
        setup: What is in use.
        document: The configuration.
        leaving: The slots of workers that drain.
        is_stopping: Whether the proxy stops, and uses no configuration any longer.

    Raises:
        ConfigError: With every fault. Nothing is left open.
    """
    config = compare(setup.config, document.load(), can_change_workers=True).config
    if is_stopping:
        raise config.error([Fault("", "cannot be used: the proxy is stopping")])
    workers = worker_count(config)
    previous = setup.reloader.store if setup.reloader is not None else CertificateStore()
    try:
        setup.scoreboard.check(config, workers)
    except LayoutFullError as error:
        raise config.error([Fault(error.path, str(error))]) from None
    prepared = prepare(config, previous, is_log_new=config.log != setup.config.log, shares_log=True)
    handover = None
    try:
        handover = hand_over_slots(config, prepared.store.bind_terminators, setup.slots, workers)
        check_ports(config, handover.slots[0])
        apply_staged(config, prepared.store)
        setup.scoreboard.reconfigure(config, workers)
    except BaseException:
        prepared.cancel()
        if handover is not None:
            handover.cancel()
        raise
    store = prepared.store
    new = evolve(
        setup,
        config=config,
        generation=setup.generation + 1,
        reloader=CertificateReloader(config, store, stage=True) if store.files else None,
        server_contexts=store.server_contexts,
        slots=handover.slots,
        adopted=adopt_slots(range(len(handover.slots)), workers, leaving),
        listener_infos=tuple(map(ListenerInfo.of, handover.slots[0])),
        outputs=prepared.outputs if prepared.outputs is not None else setup.outputs,
    )
    return Committed(new, document, handover, workers, leaving)


def adopt_slots(slots: Sequence[int], workers: int, leaving: Collection[int]) -> Mapping[int, Sequence[int]]:
    """Return the slots without a worker at whose sockets each worker accepts beside its own.

    Args:
        slots: All slots that have sockets.
        workers: The number of workers.
        leaving: The slots of workers that drain.
    """
    serving = [slot for slot in slots if slot < workers and slot not in leaving]
    orphans = [slot for slot in slots if slot not in serving]
    adopted: dict[int, list[int]] = {}
    for orphan in orphans:
        adopted.setdefault(serving[orphan % len(serving)], []).append(orphan)
    return adopted
