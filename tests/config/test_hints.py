"""Words of HAProxy, nginx and Caddy: each is answered with the key that exists here, or with the reason why there is none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tomli

import mailproxy
from mailproxy.config import hints, model
from mailproxy.config.shape import keys_of
from mailproxy.config.tables import unknown
from mailproxy.errors import ConfigError

# Keys that answers name and that this version does not have yet: their answers are not shown.
AWAITED = {
    "process.pid_file", "process.state_file", "log.tag", "log.facility", "frontend.tls.ciphersuites", "frontend.tls.curves", "frontend.tls.max_version",
    "frontend.tls.tickets", "backend.keepalive", "backend.source", "backend.resolve_prefer", "server.state",
}  # fmt: skip
TABLES = (*hints._CLIENT_SIDE, *hints._SERVER_SIDE, model.Process, model.Log, model.Admin, None)
ANSWERS = sorted(
    {
        (word, answer)
        for word, hint in hints.WORDS.items()
        for answer in (hint.client, hint.server, hint.elsewhere)
        if answer
    }
)


def exists(root: str, path: str) -> bool:
    table: Any = hints.ROOTS[root][0]
    for name in path.split("."):
        key = keys_of(table).get(name) if table else None
        if key is None:
            return False
        table = key.table
    return True


@pytest.mark.parametrize(("word", "answer"), ANSWERS)
def test_every_answer_names_a_key_or_a_reason(word: str, answer: str) -> None:
    target = hints.TARGET.match(answer)
    if target is None:
        assert answer.startswith(("not here", "["))
        assert ": " in answer or "because" in answer or answer.startswith("[")
    else:
        assert exists(target[1], target[2]) or target[0] in AWAITED
    assert hints.normalized(word) == word


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__ if table else "top")
def test_every_word_is_answered_in_every_table(table: type | None) -> None:
    keys = keys_of(table) if table else {}
    unanswered = []
    for word in hints.WORDS.keys() - keys.keys():
        target = hints.TARGET.match(hints.WORDS[word].answer(table))
        if target is not None and target[0] in AWAITED:
            continue
        fact = unknown(word, keys, table)
        if (
            not fact.startswith(("unknown key: write ", "unknown key: not here"))
            or "\n" in fact
            or len(fact) > 160
        ):
            unanswered.append(fact)
    assert unanswered == []


PLACES = {
    "frontends.imap.tls.ca_file": "write client_ca",
    "frontends.imap.ca_file": "write tls.client_ca",
    "backends.dovecot.tls.ca_file": "write ca",
    "backends.dovecot.ca-file": "write tls.ca",
    "defaults.server.ca_file": "write tls.ca",
    "defaults.bind.ca_file": "write tls.client_ca",
    "frontends.imap.tls.verify": "write client_verify",
    "backends.dovecot.check.ssl": "write tls",
    "backends.dovecot.ssl": "write tls",
    "defaults.bind.ssl": 'write mode = "tls"',
    "frontends.imap.timeouts.client_fin": "write half_closed",
    "frontends.imap.timeouts.tunnel": "not here, because client and server hold for the whole session",
    '"timeout client"': "write timeouts.client of a frontend",
    '"option tcplog"': 'write format = "tcplog" of [log]',
    "process.nbthread": "write workers",
    "process.chroot": "not here, because systemd confines the process: ProtectSystem=, PrivateTmp=",
    "process.daemon": "not here, because it is the service manager's: the program stays in the foreground",
    "process.hard-stop-after": "write drain_timeout",
    "process.maxconn": "write max_sessions",
    "global.maxconn": "write [process] and [log]",
    "frontends.imap.default_backend": "write backend",
    "defaults.server.agent-check": "not here, because no agent is asked: a check script can read what a server says",
    "defaults.server.track": "not here, because each server is checked by itself",
    "defaults.server.verifyhost": "write tls.server_name",
    "defaults.server.sni": "write tls.server_name",
    "backends.dovecot.slowstart": "write slow_start of a server",
    'process."tune.bufsize"': "not here, because nothing needs it: buffers and limits follow the machine",
    "frontends.imap.proxy_protocol": "write accept_proxy of a bind, a list of networks",
    "backends.dovecot.proxy_protocol": "write send_proxy",
}


@pytest.mark.parametrize("path", PLACES)
def test_the_answer_is_the_key_of_the_place(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mailproxy.from_mapping(tomli.loads(f"{path} = 1"))
    facts = [fault.fact for fault in caught.value.faults if fault.fact.startswith("unknown key")]
    assert facts == [f"unknown key: {PLACES[path]}"]


VALUES = [(key, word, answer) for key, words in hints.VALUES.items() for word, answer in words.items()]


@pytest.mark.parametrize(("key", "word", "answer"), VALUES)
def test_every_value_is_answered_with_one_that_is_allowed(key: str, word: str, answer: str) -> None:
    owners = [
        table for table in (*hints._CLIENT_SIDE, *hints._SERVER_SIDE, model.Log) if key in keys_of(table)
    ]
    kinds = [keys_of(table)[key].kind for table in owners]
    assert kinds
    written = re.match(r'write "([^"]+)"', answer)
    for kind in kinds:
        assert kind is not None
    assert written is None or any(written[1] in kind.schema.get("enum", ()) for kind in kinds if kind)  # type: ignore[operator]  # a schema's values are of any kind
    assert all(word not in kind.schema.get("enum", ()) for kind in kinds[:1] if kind)  # type: ignore[operator]
