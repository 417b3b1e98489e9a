"""The proxy as JSON: ``GET /api/status``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import trio
from attrs import define

from mailproxy.address import unmap_ipv4
from mailproxy.admin.exporter.rows import server_state
from mailproxy.admin.history import PROCESS, History, backend_key, frontend_key, server_key
from mailproxy.admin.http.advice import CurrentAdvice
from mailproxy.admin.runtime.show.stat import server_address, server_status
from mailproxy.admin.series import INTERVAL_S, Series
from mailproxy.admin.target import Recent
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.log import EventRecord, SessionRecord
from mailproxy.log.end_reasons import INTERNAL_ERROR, UNTRUSTED, Phase
from mailproxy.log.events import SESSION_FAULT
from mailproxy.metrics.process import LINES_LOST, LOOP_LAG_US, RESTARTS
from mailproxy.metrics.process import PROCESS as PROCESS_BLOCK
from mailproxy.metrics.recent import RECENT_MAX, has_failed
from mailproxy.metrics.traffic import Traffic
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_limits import client_network
from mailproxy.version import __version__

EVENTS_MAX = 50
_DETAIL_MAX = 200  # characters

Json = dict[str, Any]


@define(eq=False)
class Status:
    """Describes a proxy.

    Attributes:
        history: That of the proxy.
        series: Its last hour.
        advice: What ``mailproxy check`` reports about the configuration.
    """

    history: History
    series: Series
    advice: CurrentAdvice

    async def write(self, recent: Recent, not_ready: Sequence[str]) -> bytes:
        """Return the proxy as the text of a JSON object.

        Args:
            recent: What was logged last.
            not_ready: Why the proxy is not ready; empty if it is.
        """
        text = _to_json(self._describe(recent, not_ready))
        backends = []
        # Written at once, a thousand servers would keep sessions waiting for 80 ms.
        for name, backend in tuple(self.history.target.backends.items()):
            backends.append(f"{_to_json(name)}:{_to_json(self._backend(backend))}")
            await trio.lowlevel.checkpoint()
        return f'{text[:-1]},"backends":{{{",".join(backends)}}}}}'.encode()

    def _describe(self, recent: Recent, not_ready: Sequence[str]) -> Json:
        """Return everything but the backends."""
        target, failures = self.history.target, filter(has_failed, recent.sessions)
        return {
            "time": round(time.time(), 3),
            "process": self._process(not_ready),
            "frontends": {name: self._frontend(name) for name in target.config.frontends},
            "workers": [
                {"name": each.name, "pid": each.pid, "ready": each.is_ready, "responsive": each.is_responsive}
                for each in target.processes
            ],
            "certificates": self._certificates(),
            "acme": [_managed(each) for each in self.history.target.acme],
            "drains": [
                {"what": each.what, "left": each.left, "idle": each.idle, "seconds": round(each.seconds, 1)}
                for each in target.drains.statuses()
            ],
            "advice": [_advice(target.config, fault) for fault in self.advice.faults],
            "events": [_event(each) for each in reversed(recent.events) if each.event is not SESSION_FAULT],
            "recent_ends": [_end(each) for each in _newest(recent.sessions)],
            "recent_failures": [_end(each) for each in _newest(failures)],
            "series": {
                "interval": INTERVAL_S,
                "end": round(self.series.ended_at, 3),
                **self.series.points(PROCESS),
            },
        }

    def _process(self, not_ready: Sequence[str]) -> Json:
        target, history = self.history.target, self.history
        trend, total = history.trend(PROCESS), target.figures.total()
        vitals = target.figures.sums.get((PROCESS_BLOCK,), (0, 0, 0))
        uptime = history.clock() - history.started_at
        return {
            "version": __version__,
            "started": round(time.time() - uptime),
            "uptime_seconds": int(uptime),
            "ready": not not_ready,
            "not_ready": list(not_ready),
            "stopping": target.is_stopping,
            "sessions": target.sessions,
            "max_sessions": target.max_sessions,
            "sessions_total": total.sessions,
            "session_rate": trend.rate,
            "bytes_in": total.bytes_in,
            "bytes_out": total.bytes_out,
            "failures": total.failures,
            "loop_lag_seconds": vitals[LOOP_LAG_US] / 1_000_000,
            "log_lines_lost": vitals[LINES_LOST],
            "worker_restarts": target.figures.sums.get((RESTARTS,), (0,))[0],
            "workers": target.workers,
        }

    def _frontend(self, name: str) -> Json:
        target = self.history.target
        figures, table = target.frontend(name), target.config.frontends[name]
        names = [bind for frontend, bind in dict.fromkeys(target.listeners) if frontend == name]
        return {
            "state": figures.state.value,
            "protocol": table.protocol,
            "sessions": figures.sessions,
            "max_sessions": figures.limit or target.max_sessions,
            "session_rate": self.history.trend(frontend_key(name)).rate,
            **_traffic(figures.traffic),
            "binds": {
                bind: {
                    "sessions": target.figures.open_sessions(name, bind),
                    **_traffic(target.figures.listener(name, bind)),
                }
                for bind in names
            },
            "series": self.series.points(frontend_key(name)),
        }

    def _backend(self, backend: Backend) -> Json:
        traffic = self.history.target.figures.backend(backend.name)
        return {
            "state": "UP" if backend.pool.has_usable_server else "DOWN",
            "balance": backend.config.balance,
            "sessions": backend.sessions,
            "queue": backend.pool.waiting,
            "session_rate": self.history.trend(backend_key(backend.name)).rate,
            **_traffic(traffic),
            "stick_entries": len(backend.pool.stick) if backend.pool.stick is not None else None,
            "servers": {server.name: self._server(backend, server) for server in backend.servers},
            "series": self.series.points(backend_key(backend.name)),
        }

    def _server(self, backend: Backend, server: BackendServer) -> Json:
        target, outcome = self.history.target, server.last_check
        counts, traffic = (
            target.server_counts(backend, server),
            target.figures.server(backend.name, server.name),
        )
        changed = server.changed_at if server.changed_at is not None else self.history.started_at
        check = None
        if outcome is not None and server.health is not None:
            result = outcome.result
            check = {
                "code": result.code.name, "text": result.code.value, "info": result.info,
                "milliseconds": outcome.ms if outcome.ms >= 0 else None, "passed": result.code.is_passed,
            }  # fmt: skip
        return {
            "state": server_state(server),
            "status": server_status(server),
            "address": server_address(server),
            "backup": server.is_backup,
            "weight": server.weight,
            "throttle": server.throttle,
            "sessions": server.sessions,
            "max_sessions": server.max_sessions or None,
            "queue": backend.pool.waiting_for(server),
            "seconds_in_state": int(self.history.clock() - changed),
            "check": check,
            "checked": server.health is not None,
            "checks_paused": server.checks_paused,
            **_traffic(traffic),
            "sessions_total": counts.sessions,
            "connect_errors": counts.connect_errors,
            "retries": counts.retries,
            "redispatches": counts.redispatches,
            "downs": counts.downs,
            "series": self.series.points(server_key(backend.name, server.name)),
        }

    def _certificates(self) -> list[Json]:
        now = datetime.now(UTC)
        return [
            {
                "file": str(each.path),
                "names": list(each.names),
                "not_before": int(each.not_before.timestamp()),
                "not_after": int(each.not_after.timestamp()),
                "days_left": (each.not_after - now).days,
            }
            for each in self.history.target.certificates
        ]


def _managed(status: AcmeStatus) -> Json:
    return {
        "names": list(status.names),
        "key_type": status.key_type,
        "authority": status.authority,
        "file": status.file,
        "not_after": _whole(status.expiry),
        "last_attempt": _whole(status.last_attempt),
        "last_result": status.last_result,
        "next_attempt": _whole(status.next_attempt),
        "failures": status.failures,
        "is_running": status.is_running,
    }


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _traffic(traffic: Traffic) -> Json:
    return {
        "sessions_total": traffic.sessions,
        "bytes_in": traffic.bytes_in,
        "bytes_out": traffic.bytes_out,
        "failures": traffic.failures,
        "client_aborts": traffic.client_aborts,
    }


def _event(event: EventRecord) -> Json:
    return {
        "time": round(event.time, 3),
        "event": event.event.name,
        "level": event.event.level,
        "message": event.message,
    }


def _ended_at(record: SessionRecord) -> float:
    return round(record.accepted + record.total_ms / 1000, 3)


def _newest(records: Iterable[SessionRecord]) -> list[SessionRecord]:
    return sorted(records, key=_ended_at, reverse=True)[:RECENT_MAX]


def _end(record: SessionRecord) -> Json:
    """Describe a session that has ended. Without the client's address: every user of the machine may read it."""
    assert record.end is not None  # noqa: S101 - it has ended
    return {
        "time": _ended_at(record), "id": f"{record.id:x}",
        "frontend": record.frontend, "backend": record.backend, "server": record.server,
        "end": record.end.name, "reason": record.end.meaning.replace("`", ""), "detail": _detail(record)[:_DETAIL_MAX],
        "failed": has_failed(record), "milliseconds": record.total_ms,
        "bytes_in": record.bytes_in, "bytes_out": record.bytes_out,
    }  # fmt: skip


def _detail(record: SessionRecord) -> str:
    """Return the detail of an end, without the client's address and its network."""
    detail = str(record.detail)
    if record.end is INTERNAL_ERROR or (record.phase is Phase.HEADER and record.end is not UNTRUSTED):
        return ""  # it may quote what was received
    for host in _client_names(record.client):
        detail = detail.replace(host, "the client")
    return detail


def _client_names(client: str) -> list[str]:
    """Return what a client can be called in a detail, the longest name first."""
    host = client.rpartition(":")[0]
    bare = host.strip("[]").partition("%")[0]
    names = {host, bare, unmap_ipv4(bare), client_network(bare)}
    return sorted(names - {""}, key=len, reverse=True)


def _advice(config: Config, fault: Fault) -> Json:
    return {
        "key": str(fault.path),
        "message": fault.fact,
        "where": fault.location(config.source).rstrip(": "),
    }
