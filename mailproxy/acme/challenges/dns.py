"""dns-01 (RFC 8555 section 8.4): TXT records by a program of the operator, or by updates of the zone."""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

import dns.exception
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsigkeyring
import dns.update
import trio
from attrs import frozen
from josepy.b64 import b64encode

from mailproxy.acme.challenges.propagation import (
    NameServer,
    canonical,
    configured_servers,
    wait_until_seen,
)
from mailproxy.acme.challenges.solver import Proof
from mailproxy.acme.errors import AcmeError, shown
from mailproxy.address import TcpAddress
from mailproxy.config import Acme
from mailproxy.config.model import AcmeDns, Rfc2136

_HOOK_TIMEOUT_S = 120.0
_UPDATE_TIMEOUT_S = 10.0
_CLEANUP_TIMEOUT_S = 30.0
_TTL_S = 60
_OUTPUT_MAX = 2000  # bytes of a program's output that are looked at
# The exit code is passed in the output: as process 1 of a container, the proxy waits for all children, and
# might take the exit code away.
_SHELL = 'output=$("$@" 2>&1 </dev/null); code=$?; printf "%s\\nexit %d\\n" "$(printf "%s" "$output" | tail -c 1500)" "$code"'


class RecordEditor(Protocol):
    """Adds and removes TXT records. Its methods block, and raise AcmeError."""

    def add(self, owner: str, value: str) -> None:
        """Add a record."""

    def remove(self, owner: str, value: str) -> None:
        """Remove a record."""


@frozen
class DnsSolver:
    """Answers dns-01.

    Attributes:
        dns: The table.
        type: The type of the challenge.
    """

    dns: AcmeDns
    type: str = "dns-01"

    @contextlib.asynccontextmanager
    async def answering(self, proofs: list[Proof]) -> AsyncIterator[None]:
        """Have the records in the zone in the block, where the authority can see them."""
        records = [(f"_acme-challenge.{proof.name}", record_value(proof)) for proof in proofs]
        editor = make_editor(self.dns)
        try:
            for owner, value in records:
                await _in_thread(editor.add, owner, value)
            await self._wait(records)
            yield
        finally:
            with trio.CancelScope(deadline=trio.current_time() + _CLEANUP_TIMEOUT_S, shield=True):
                for owner, value in records:
                    # A record that stays does no harm, and the next order adds its own.
                    with contextlib.suppress(AcmeError):
                        await _in_thread(editor.remove, owner, value)  # noqa: ASYNC102 - shielded, with a deadline

    async def _wait(self, records: Sequence[tuple[str, str]]) -> None:
        servers = configured_servers(self.dns.resolvers)
        by_owner: dict[str, list[str]] = {}
        for owner, value in records:
            by_owner.setdefault(owner, []).append(value)
        for owner, values in by_owner.items():
            await _in_thread(self._wait_for, owner, values, servers)

    def _wait_for(self, owner: str, values: Sequence[str], servers: Sequence[NameServer]) -> None:
        wait_until_seen(owner, values, servers, timeout=self.dns.propagation_timeout)


async def _in_thread(function: object, *args: object) -> None:
    await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))  # type: ignore[arg-type]


def record_value(proof: Proof) -> str:
    """Return the content of the TXT record for a proof."""
    return b64encode(hashlib.sha256(proof.key_authorization.encode()).digest()).decode()


def make_editor(table: AcmeDns) -> RecordEditor:
    """Return what edits the zone."""
    if table.hook is not None:
        return Hook(table.hook)
    assert table.rfc2136 is not None  # noqa: S101 - the configuration's rules demand one of the two
    return ZoneUpdates(table.rfc2136, configured_servers(table.resolvers))


@frozen
class Hook:
    """A program of the operator: ``HOOK add|remove _acme-challenge.NAME VALUE``."""

    program: Path

    def add(self, owner: str, value: str) -> None:
        """Have the program add a record."""
        self._run("add", owner, value)

    def remove(self, owner: str, value: str) -> None:
        """Have the program remove a record."""
        self._run("remove", owner, value)

    def _run(self, *arguments: str) -> None:
        try:
            result = subprocess.run(  # noqa: S603 - the operator's program, with arguments that have no meaning to a shell
                ["/bin/sh", "-c", _SHELL, "hook", str(self.program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_HOOK_TIMEOUT_S,
                check=False,
                start_new_session=True,  # signals of a terminal are the proxy's
            )
        except subprocess.TimeoutExpired:
            raise AcmeError(
                f"{self.program} {arguments[0]}: has not ended within {_HOOK_TIMEOUT_S:g} s"
            ) from None
        except OSError as error:
            raise AcmeError(f"{self.program}: {error.strerror or error}") from None
        output, _, code = result.stdout.decode(errors="replace").rstrip().rpartition("\nexit ")
        if code != "0":
            last = shown(output.strip()[-_OUTPUT_MAX:]) or "no output"
            raise AcmeError(f"{self.program} {arguments[0]}: exit code {code or 'unknown'}: {last}")


@frozen
class ZoneUpdates:
    """Updates of a zone (RFC 2136), signed with TSIG."""

    table: Rfc2136
    resolvers: Sequence[NameServer]

    def add(self, owner: str, value: str) -> None:
        """Add a record."""
        self._update(owner, value, is_added=True)

    def remove(self, owner: str, value: str) -> None:
        """Remove this record, and no other of its owner."""
        self._update(owner, value, is_added=False)

    def _update(self, owner: str, value: str, *, is_added: bool) -> None:
        table, address = self.table, self.table.server
        assert isinstance(address, TcpAddress)  # noqa: S101 - the configuration's rules demand it
        try:
            zone = dns.name.from_text(table.zone)
            name = dns.name.from_text(self._owner_in_zone(owner, zone))
            update = dns.update.UpdateMessage(
                zone,
                keyring=dns.tsigkeyring.from_text({table.key_name: read_secret(table.key_file)}),
                keyalgorithm=dns.name.from_text(table.algorithm),
            )
            record = f'"{value}"'
            if is_added:
                update.add(name, _TTL_S, "TXT", record)
            else:
                update.delete(name, "TXT", record)
            response = dns.query.tcp(update, address.host, port=address.port or 53, timeout=_UPDATE_TIMEOUT_S)
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
            reason = shown(error) or type(error).__name__
            raise AcmeError(f"the update of {table.zone} at {address} failed: {reason}") from None
        if response.rcode() != dns.rcode.NOERROR:
            code = dns.rcode.to_text(response.rcode())
            raise AcmeError(f"the name server {address} refuses the update of {table.zone}: {code}")

    def _owner_in_zone(self, owner: str, zone: dns.name.Name) -> str:
        """Return the owner, or where its alias leads if it is not in the zone."""
        if dns.name.from_text(owner).is_subdomain(zone):
            return owner
        target = canonical(owner, self.resolvers)
        if not dns.name.from_text(target).is_subdomain(zone):
            raise ValueError(f"{owner} is not in the zone {self.table.zone}, and no alias leads there")
        return target


def read_secret(file: Path) -> str:
    """Return the secret of a TSIG key: from a file with base64 alone, or from a key file of BIND.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it has no secret.
    """
    text = file.read_text(errors="replace")
    quoted = re.search(r'secret\s+"([A-Za-z0-9+/=\s]+)"', text)
    secret = "".join((quoted[1] if quoted else text).split())
    if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", secret):
        raise ValueError(f"{file} has no secret in base64")
    return secret


def make_dns_solver(acme: Acme) -> DnsSolver:
    """Return the solver of an authority's table."""
    assert acme.dns is not None  # noqa: S101 - the configuration's rules demand it
    return DnsSolver(acme.dns)
