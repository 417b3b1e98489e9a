"""Words of HAProxy, nginx and Caddy: each is answered with mailproxy's key, or why there is none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tomli

import mailproxy
from mailproxy.config import model
from mailproxy.config.fields import keys_of
from mailproxy.config.lint import foreign_words, hints
from mailproxy.config.lint.unknown_keys import describe_unknown_key
from mailproxy.errors import ConfigError

TABLES = (*hints._CLIENT_SIDE, *hints._SERVER_SIDE, model.Process, model.Log, model.Admin, None)
ANSWERS = sorted(
    {
        (word, answer)
        for word, hint in foreign_words.WORDS.items()
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
def test_answer_names_a_key_or_a_reason(word: str, answer: str) -> None:
    target = hints.TARGET.match(answer)
    if target is None:
        assert answer.startswith(("not here", "["))
        assert ": " in answer or "because" in answer or answer.startswith("[")
    for root, path in hints.TARGET.findall(answer):
        assert exists(root, path)
    assert hints.normalized(word) == word


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__ if table else "top")
def test_every_word_is_answered_in_the_table(table: type | None) -> None:
    keys = keys_of(table) if table else {}
    unanswered = []
    for word in foreign_words.WORDS.keys() - keys.keys():
        fact = describe_unknown_key(word, keys, table)
        if (
            not fact.startswith(("unknown key: write ", "unknown key: not here"))
            or "\n" in fact
            or len(fact) > 160
        ):
            unanswered.append(fact)
    assert unanswered == []


KEYS = {
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
    "frontends.imap.timeouts.tunnel": "not here, because a session is a tunnel from its beginning: timeouts of client and server hold",
    "process.pidfile": "write pid_file",
    "process.pid": "write pid_file",
    "process.server-state-file": "write state_file",
    "backends.dovecot.load-server-state-from-file": "write state_file of [process], which is loaded at each start",
    "process.nosplice": "not here, because nothing needs it: splice and buffers are automatic",
    "process.noepoll": "not here, because nothing needs it: splice and buffers are automatic",
    "frontends.imap.dontlog-normal": "not here, because every session has its line, however it ends",
    "process.master-worker": "not here, because it is the service manager's: the program stays in the foreground",
    "frontends.imap.independent-streams": "not here, because bytes in either direction keep a session alive",
    "defaults.bind.starttls": 'write mode = "starttls"',
    "backends.dovecot.starttls": 'write tls with mode = "starttls"',
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


@pytest.mark.parametrize("path", KEYS)
def test_answer_fits_the_table(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mailproxy.from_mapping(tomli.loads(f"{path} = 1"))
    facts = [fault.fact for fault in caught.value.faults if fault.fact.startswith("unknown key")]
    assert facts == [f"unknown key: {KEYS[path]}"]


ANSWERED_VALUES = [
    (*match.groups(), answer)
    for _, answer in ANSWERS
    if (match := re.match(rf"{hints.TARGET.pattern} = ([^,;]+)", answer))
]


@pytest.mark.parametrize(("root", "path", "value", "answer"), ANSWERED_VALUES)
def test_value_in_answer_is_accepted(root: str, path: str, value: str, answer: str) -> None:
    table: Any = hints.ROOTS[root][0]
    *parents, key_name = path.split(".")
    for name in parents:
        table = keys_of(table)[name].table
    key, value_in_answer = keys_of(table)[key_name], tomli.loads(f"value = {value}")["value"]
    assert key.supported is None or value_in_answer in key.supported
    if key.value_type is not None:
        key.value_type.structure(value_in_answer)


VALUES = [
    (key, word, answer) for key, words in foreign_words.VALUES.items() for word, answer in words.items()
]


@pytest.mark.parametrize(("key", "word", "answer"), VALUES)
def test_foreign_value_is_answered_with_allowed_value(key: str, word: str, answer: str) -> None:
    owners = [
        table for table in (*hints._CLIENT_SIDE, *hints._SERVER_SIDE, model.Log) if key in keys_of(table)
    ]
    value_types = [keys_of(table)[key].value_type for table in owners]
    assert value_types
    value_in_answer = re.match(r'write "([^"]+)"', answer)
    for value_type in value_types:
        assert value_type is not None
    assert value_in_answer is None or any(
        value_in_answer[1] in value_type.schema.get("enum", ())  # type: ignore[operator]  # schema values have any type
        for value_type in value_types
        if value_type
    )
    assert all(word not in value_type.schema.get("enum", ()) for value_type in value_types[:1] if value_type)  # type: ignore[operator]
