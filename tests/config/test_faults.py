"""Faulty configurations: each fault has one line with path, value and what is allowed, never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli
from attrs import evolve
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import mailproxy
from mailproxy.cli import main
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import Layer, merge
from mailproxy.config.path import ROOT_PATH
from mailproxy.config.rules import check_rules
from mailproxy.errors import ConfigError
from tests.support.config_noise import FULL_CONFIG, mutated_files, mutated_mappings, noise
from tests.support.smallest_config import SMALLEST, faults_of, smallest_config, smallest_toml

DURATION = 'a duration such as "300ms", "5s", "31m", "1h", or a number of seconds'
BIND = 'an address such as "*:143", "[::]:993", "127.0.0.1:993", "unix:/run/x.sock", "fd:3" or "fd:NAME"'
SERVER = 'an address such as "10.0.0.1:993", "10.0.0.2", "imap.internal:993" or "unix:/run/x.sock"'
NAME = "a name of letters, digits and . _ - : / * [ ]"
TLVS = "authority, alpn, crc32c, unique-id, ssl-cipher, cert-sig, cert-key, client-cert"
NETWORK = 'a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "file:PATH"'
PROXY_SOURCE = 'a network such as "10.0.0.0/8" or "2001:db8::/32", an address, "file:PATH", or "unix"'
SERVER_NAMES = 'a list of server names such as "imap.example.com" or "*.example.org", or false'
LOG = "stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514"
PROTOCOL_NAME = 'a protocol name such as "imap", 1 to 255 ASCII characters'
HOST_NAME = 'a host name such as "imap.internal", or an IP address'
NO_HELLO = 'can never hold: no bind of this frontend has mode = "tls" or "passthrough", and only those wait for a ClientHello'
NO_PORT = NO_HELLO.replace("no bind of", "no bind at port {} of")
NO_UNIX_CLIENT = 'no client could connect: clients of a Unix socket are in no network; give "unix", or []'
NEEDS_V2 = 'needs send_proxy = "v2" or more, it is "{}"'
ONE_FILE = "belongs to exactly one certificate file; for several, give each its own: certificates = [{ certificate = …, key = … }, …]"
NO_VERIFY = 'has no meaning without client_verify = "optional" or "required"'
NOT_TERMINATED = 'has no meaning: no bind of this frontend has mode = "tls" or "starttls"'
NO_OCTETS = 'bytes in hex such as "16 03 01", two digits each'
STEP_WORDS = "connect, send, send_hex, expect, expect_regex, expect_hex"
NOT_EXPECTING = "has no meaning with {}: it belongs to an expectation"
IN_A_SCRIPT = '"starttls" has no meaning in a script, where TLS is made right after connecting: give type = "imap", or another mail protocol, and check.tls'
NO_PROTOCOL = '"starttls" needs a mail protocol: give the backend its protocol, such as "imap"'
NO_STARTTLS = '"starttls" has no meaning with a check of type {}: imap, pop3, smtp, lmtp and sieve have it'
NO_SCRIPT = 'has no meaning without type = "script"'
NO_CONNECT = "has no connect before it, and there is a server without a port: give check.port, or begin with connect = { port = … }"
NO_PORT_OF_STEP = "has no port, and there is a server without one: give it one, or check.port"
NEVER_UP = (
    'needs a check: a server that it took down could never come up again; give one, or observe = "none"'
)
OWN_STICK = (
    "a table is not allowed: it is the backend's, and a server can only stay out of it, with stick = false"
)
NO_COUNT = 'count is missing: give { count = 30, per = "60s" } or similar, or false for no bound'
FRONTEND_KEYS = "profile, protocol, backend, max_sessions, max_sessions_per_client, max_session_rate_per_client, max_sessions_per_client_exempt, greeting, refusal, goodbye, capabilities, greeting_delay, early_talkers, max_errors, timeouts, log_null, log_start, log_steps, tls, bind, routes"

PORTLESS = 'backends.dovecot.servers = ["192.0.2.1"]\n'
SCRIPT = 'backends.dovecot.check.type = "script"\nbackends.dovecot.check.steps = '

TERMINATED = 'frontends.imap.bind = [{ address = "*:993", mode = "tls" }]\n'
PASSTHROUGH = 'frontends.imap.bind = [{ address = "*:993", mode = "passthrough" }]\n'

# Lines that are added to the smallest configuration or replace its own lines, and the expected faults.
FAULTY_LINES: dict[str, tuple[tuple[str, ...], ...]] = {
    "numbers": (
        ('process.max_sessions = "many"', 'process.max_sessions: "many" is not allowed: a whole number from 1 to 2147483647'),
        ('process.max_sessions = "100"', 'process.max_sessions: "100" is not allowed: without quotes, 100'),
        ("process.max_sessions = 0", "process.max_sessions: 0 is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = -1", "process.max_sessions: -1 is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = 99999999999", "process.max_sessions: 99999999999 is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = 100.0", "process.max_sessions: 100.0 is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = true", "process.max_sessions: true is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = nan", "process.max_sessions: nan is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = []", "process.max_sessions: [] is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = 2026-11-22", "process.max_sessions: 2026-11-22 is not allowed: a whole number from 1 to 2147483647"),
        ("process.max_sessions = 0x" + "f" * 5000, "process.max_sessions: a number of thousands of digits is not allowed: a whole number from 1 to 2147483647"),
        ("backends.dovecot.port = 0", "backends.dovecot.port: 0 is not allowed: a port from 1 to 65535"),
        ("backends.dovecot.port = 65536", "backends.dovecot.port: 65536 is not allowed: a port from 1 to 65535"),
        ('backends.dovecot.port = "imaps"', 'backends.dovecot.port: "imaps" is not allowed: a port from 1 to 65535'),
        ('backends.dovecot.servers = [{ address = "192.0.2.1", weight = 257 }]', "backends.dovecot.servers[0].weight: 257 is not allowed: a whole number from 0 to 256"),
        ('frontends.imap.bind = [{ address = "*:143", backlog = 10000000000 }]', "frontends.imap.bind[0].backlog: 10000000000 is not allowed: a whole number from 1 to 2147483647"),
        ("backends.dovecot.check.jitter = 1.5", "backends.dovecot.check.jitter: 1.5 is not allowed: a number from 0 to 1"),
        ("backends.dovecot.check.jitter = nan", "backends.dovecot.check.jitter: nan is not allowed: a number from 0 to 1"),
        ("backends.dovecot.check.jitter = 1" + "0" * 400, f"backends.dovecot.check.jitter: 1{'0' * 75}…0 is not allowed: a number from 0 to 1"),
        ("backends.dovecot.redispatch = 0", "backends.dovecot.redispatch: 0 is not allowed: true, false, or a whole number from 1"),
        ('process.workers = "all"', 'process.workers: "all" is not allowed: a whole number from 1, or "auto"'),
        ('backends.dovecot.stick.size = "200 k"', 'backends.dovecot.stick.size: "200 k" is not allowed: a size such as "200k", or a number'),
        ("backends.dovecot.stick.prefix_v4 = 33", "backends.dovecot.stick.prefix_v4: 33 is not allowed: a whole number from 0 to 32"),
        ("defaults.backend.stick.prefix_v6 = 129", "defaults.backend.stick.prefix_v6: 129 is not allowed: a whole number from 0 to 128"),
        ("backends.dovecot.stick.size = -1", 'backends.dovecot.stick.size: -1 is not allowed: a size such as "200k", or a number'),
        ("frontends.imap.max_sessions_per_client = -1", "frontends.imap.max_sessions_per_client: -1 is not allowed: a whole number from 0 to 2147483647"),
        ("frontends.imap.max_session_rate_per_client = { count = 0 }", "frontends.imap.max_session_rate_per_client.count: 0 is not allowed: a whole number from 1 to 65535"),
        ("frontends.imap.max_session_rate_per_client = { count = 65536 }", "frontends.imap.max_session_rate_per_client.count: 65536 is not allowed: a whole number from 1 to 65535"),
        ("frontends.imap.max_session_rate_per_client = 30", "frontends.imap.max_session_rate_per_client: 30 is not allowed: a table"),
        ("frontends.imap.max_session_rate_per_client = {}", f"frontends.imap.max_session_rate_per_client: {NO_COUNT}"),
        ('frontends.imap.max_session_rate_per_client = { per = "60s" }', f"frontends.imap.max_session_rate_per_client: {NO_COUNT}"),
        ('defaults.frontend.max_session_rate_per_client.per = "60s"', f"defaults.frontend.max_session_rate_per_client: {NO_COUNT}"),
        ("frontends.imap.max_session_rate_per_client = { count = 3, pre = 3 }", "frontends.imap.max_session_rate_per_client.pre: unknown key, did you mean per?"),
        ('frontends.imap.max_sessions_per_client_exempt = ["10.0.0.1/8"]', 'frontends.imap.max_sessions_per_client_exempt[0]: "10.0.0.1/8" is not allowed: has host bits set: "10.0.0.0/8" is the network; a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "file:PATH"'),
        ("backends.dovecot.error_clients = 0", "backends.dovecot.error_clients: 0 is not allowed: a whole number from 1 to 2147483647"),
    ),
    "application protocols": (
        ('frontends.imap.tls.alpn = ["imap", ""]', f'frontends.imap.tls.alpn[1]: "" is not allowed: {PROTOCOL_NAME}'),
        ('frontends.imap.tls.alpn = ["x' + "x" * 255 + '"]', f"frontends.imap.tls.alpn[0]: \"{'x' * 75}…\" is not allowed: {PROTOCOL_NAME}"),
        ('frontends.imap.tls.alpn = ["\u00e9"]', f'frontends.imap.tls.alpn[0]: "\u00e9" is not allowed: {PROTOCOL_NAME}'),
        ('defaults.bind.tls.alpn = [""]', f'defaults.bind.tls.alpn[0]: "" is not allowed: {PROTOCOL_NAME}'),
        ('frontends.imap.tls.alpn = "imap"', 'frontends.imap.tls.alpn: "imap" is not allowed: a list, ["imap"]'),
        (PASSTHROUGH + 'frontends.imap.routes = [{ alpn = [""], backend = "dovecot" }]', f'frontends.imap.routes[0].alpn[0]: "" is not allowed: {PROTOCOL_NAME}'),
    ),
    "quotes and brackets": (
        ('backends.dovecot.servers = [{ address = "10.0.0.1:143", weight = "10" }]', 'backends.dovecot.servers[0].weight: "10" is not allowed: without quotes, 10'),
        ('backends.dovecot.servers = [{ address = "10.0.0.1:143", weight = "300" }]', 'backends.dovecot.servers[0].weight: "300" is not allowed: a whole number from 0 to 256'),
        ('backends.dovecot.redispatch = "3"', 'backends.dovecot.redispatch: "3" is not allowed: without quotes, 3'),
        ('backends.dovecot.check.jitter = "0.5"', 'backends.dovecot.check.jitter: "0.5" is not allowed: without quotes, 0.5'),
        ('frontends.imap.bind = [{ address = "*:143", keepalive = "yes" }]', 'frontends.imap.bind[0].keepalive: "yes" is not allowed: true or false'),
        ('frontends.imap.bind = [{ address = "*:143", keepalive = "true" }]', 'frontends.imap.bind[0].keepalive: "true" is not allowed: without quotes, true'),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = "10.0.0.0/8" }]', 'frontends.imap.bind[0].accept_proxy: "10.0.0.0/8" is not allowed: a list, ["10.0.0.0/8"]'),
        ("frontends.imap.routes = [{ port = 143, reject = true }]", "frontends.imap.routes[0].port: 143 is not allowed: a list, [143]"),
        ("backends.dovecot.servers = [{ address = 143 }]", f"backends.dovecot.servers[0].address: 143 is not allowed: {SERVER}"),
        ("process.user = 80", 'process.user: 80 is not allowed: write "#80"'),
    ),
    "devices": (
        ('log.to = "/dev/log"', f'log.to: "/dev/log" is not allowed: a file in /dev is lost at the next start of the machine, did you mean syslog:/dev/log?; {LOG}'),
        ('log.to = "/dev/../dev//log"', f'log.to: "/dev/../dev//log" is not allowed: a file in /dev is lost at the next start of the machine, did you mean syslog:/dev/log?; {LOG}'),
        ('log.to = "/dev/mail.log"', f'log.to: "/dev/mail.log" is not allowed: a file in /dev is lost at the next start of the machine, give a folder such as /var/log; {LOG}'),
        ('log.to = "/dev/shm/mail.log"', f'log.to: "/dev/shm/mail.log" is not allowed: a file in /dev is lost at the next start of the machine, give a folder such as /var/log; {LOG}'),
    ),
    "durations": (
        ('process.drain_timeout = "soon"', f'process.drain_timeout: "soon" is not allowed: {DURATION}'),
        ('frontends.imap.max_session_rate_per_client = { count = 3, per = "25h" }', f'frontends.imap.max_session_rate_per_client.per: "25h" is not allowed: must be at most 1d; {DURATION}, above 0 and at most 1d'),
        ("frontends.imap.max_session_rate_per_client = { count = 3, per = 0 }", f"frontends.imap.max_session_rate_per_client.per: 0 is not allowed: must be above 0; {DURATION}, above 0 and at most 1d"),
        ('process.drain_timeout = ""', f'process.drain_timeout: "" is not allowed: {DURATION}'),
        ('process.drain_timeout = "5 s"', f'process.drain_timeout: "5 s" is not allowed: {DURATION}'),
        ('process.drain_timeout = "-5s"', f'process.drain_timeout: "-5s" is not allowed: {DURATION}'),
        ("process.drain_timeout = -0.5", f"process.drain_timeout: -0.5 is not allowed: {DURATION}"),
        ("process.drain_timeout = nan", f"process.drain_timeout: nan is not allowed: {DURATION}"),
        ("process.drain_timeout = inf", f"process.drain_timeout: inf is not allowed: {DURATION}"),
        ('process.drain_timeout = "11000d"', f'process.drain_timeout: "11000d" is not allowed: {DURATION}'),
        ("process.drain_timeout = 1" + "0" * 400, f"process.drain_timeout: 1{'0' * 75}…0 is not allowed: {DURATION}"),
        ("process.drain_timeout = false", f"process.drain_timeout: false is not allowed: {DURATION}"),
        ("frontends.imap.timeouts.client = 0", f"frontends.imap.timeouts.client: 0 is not allowed: must be above 0; {DURATION}, above 0"),
        ('backends.dovecot.timeouts.connect = "0ms"', f'backends.dovecot.timeouts.connect: "0ms" is not allowed: must be above 0; {DURATION}, above 0'),
    ),
    "words": (
        ('log.level = "verbose"', 'log.level: "verbose" is not allowed: one of debug, info, warning, error'),
        ("log.level = 3", "log.level: 3 is not allowed: one of debug, info, warning, error"),
        ('log.format = "TEXT"', 'log.format: "TEXT" is not allowed: one of text, json, tcplog'),
        ('log.to = ""', 'log.to: "" is not allowed: stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514'),
        ('log.to = "syslog:localhost"', 'log.to: "syslog:localhost" is not allowed: syslog: takes a path or HOST:PORT; stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514'),
        ('log.to = "syslog:127.0.0.1:70000"', f"log.to: \"syslog:127.0.0.1:70000\" is not allowed: port '70000' is not a number from 1 to 65535; {LOG}"),
        ('log.to = "syslog:logs 1:514"', f'log.to: "syslog:logs 1:514" is not allowed: has blanks in it; {LOG}'),
        ('log.to = "syslog"', f'log.to: "syslog" is not allowed: a file of that name would be written as ./syslog; {LOG}'),
        ('log.to = "STDERR"', f'log.to: "STDERR" is not allowed: a file of that name would be written as ./STDERR; {LOG}'),
        ('backends.dovecot.tls.server_name = "imap internal"', f'backends.dovecot.tls.server_name: "imap internal" is not allowed: has blanks in it; {HOST_NAME}'),
        ('backends.dovecot.tls.server_name = "imap.internal:993"', f'backends.dovecot.tls.server_name: "imap.internal:993" is not allowed: {HOST_NAME}'),
        ('process.user = ""', 'process.user: "" is not allowed: a name, or a number such as "#80"'),
        ("process.user = 1000", 'process.user: 1000 is not allowed: write "#1000"'),
        ("admin.mode = 660", 'admin.mode: 660 is not allowed: in quotes, "660"'),
        ('admin.mode = "0990"', 'admin.mode: "0990" is not allowed: permission bits such as "0660"'),
        ('frontends.imap.protocol = "imaps"', 'frontends.imap.protocol: "imaps" is not allowed: write "imap", and mode = "tls" at the bind'),
        ("frontends.imap.log_null = 1", "frontends.imap.log_null: 1 is not allowed: true or false"),
        ('frontends.imap.log_start = "true"', 'frontends.imap.log_start: "true" is not allowed: without quotes, true'),
        ("frontends.imap.tls.min_version = 1.2", 'frontends.imap.tls.min_version: 1.2 is not allowed: in quotes, "1.2"'),
        ('frontends.imap.tls.min_version = "1.1"', 'frontends.imap.tls.min_version: "1.1" is not allowed: TLS below 1.2 is always off'),
        ('backends.dovecot.balance = "fair"', 'backends.dovecot.balance: "fair" is not allowed: one of leastconn, roundrobin, source, first, random'),
        ('backends.dovecot.tls.verify = "yes"', 'backends.dovecot.tls.verify: "yes" is not allowed: write "required"'),
        ('backends.dovecot.check.steps = [{ expect_regex = "(" }]', 'backends.dovecot.check.steps[0].expect_regex: "(" is not allowed: missing ), unterminated subpattern at position 0; a regular expression'),
        ('frontends.imap.backend = "a backend"', f'frontends.imap.backend: "a backend" is not allowed: {NAME}'),
        ('frontends."im ap".backend = "dovecot"', f'frontends."im ap": "im ap" is not allowed: {NAME}'),
        ('log.level = "a\\nb"', 'log.level: "a\\u000ab" is not allowed: one of debug, info, warning, error'),
        (f'log.level = "{"x" * 200}"', f'log.level: "{"x" * 75}…" is not allowed: one of debug, info, warning, error'),
    ),
    "addresses": (
        ('frontends.imap.bind = ["::1:143"]', f'frontends.imap.bind[0].address: "::1:143" is not allowed: has no port: IPv6 addresses stand in brackets, [::1]:143; {BIND}'),
        ('frontends.imap.bind = ["2001:db8::1"]', f'frontends.imap.bind[0].address: "2001:db8::1" is not allowed: has no port: IPv6 addresses stand in brackets, [2001:db8::1]:143; {BIND}'),
        ('frontends.imap.bind = ["[::1]"]', f'frontends.imap.bind[0].address: "[::1]" is not allowed: has no port; {BIND}'),
        ('backends.dovecot.servers = ["10.0.0.1:212100"]', f"backends.dovecot.servers[0].address: \"10.0.0.1:212100\" is not allowed: port '212100' is not a number from 1 to 65535; {SERVER}"),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = true }]', f'frontends.imap.bind[0].accept_proxy: true is not allowed: a list, such as ["10.0.0.0/8"]; each {PROXY_SOURCE}'),
        ('frontends.imap.bind = [{ address = "127.0.0.1" }]', f'frontends.imap.bind[0].address: "127.0.0.1" is not allowed: has no port; {BIND}'),
        ('frontends.imap.bind = [{ address = "*:imap" }]', f"frontends.imap.bind[0].address: \"*:imap\" is not allowed: port 'imap' is not a number from 0 to 65535; {BIND}"),
        ('frontends.imap.bind = [{ address = "*:65536" }]', f"frontends.imap.bind[0].address: \"*:65536\" is not allowed: port '65536' is not a number from 0 to 65535; {BIND}"),
        ('frontends.imap.bind = [{ address = "mail.example:143" }]', f'frontends.imap.bind[0].address: "mail.example:143" is not allowed: is not an IP address: a bind takes one, or * for every IPv4 address, [::] for both families; {BIND}'),
        ('frontends.imap.bind = [{ address = ":::993" }]', f'frontends.imap.bind[0].address: ":::993" is not allowed: is neither HOST:PORT nor [IPv6]:PORT; {BIND}'),
        ('frontends.imap.bind = [{ address = "[10.0.0.1]:993" }]', f'frontends.imap.bind[0].address: "[10.0.0.1]:993" is not allowed: has no IPv6 address between its brackets; {BIND}'),
        ('frontends.imap.bind = [{ address = "fd:a:b" }]', f'frontends.imap.bind[0].address: "fd:a:b" is not allowed: fd: takes the number of an inherited descriptor, or its FileDescriptorName; {BIND}'),
        ('frontends.imap.bind = [{ address = "unix:" }]', f'frontends.imap.bind[0].address: "unix:" is not allowed: unix: takes a path; {BIND}'),
        (f'frontends.imap.bind = [{{ address = "unix:/{"x" * 107}" }}]', f'frontends.imap.bind[0].address: "unix:/{"x" * 69}…" is not allowed: the path is longer than 107 bytes; {BIND}'),
        ('frontends.imap.bind = ["143"]', f'frontends.imap.bind[0].address: "143" is not allowed: has no host: "*:143" is every IPv4 address; {BIND}'),
        ('frontends.imap.bind = ["/run/x.sock"]', f'frontends.imap.bind[0].address: "/run/x.sock" is not allowed: is a path: write unix: before it; {BIND}'),
        ("frontends.imap.bind = [{ address = 143 }]", f"frontends.imap.bind[0].address: 143 is not allowed: {BIND}"),
        ('backends.dovecot.servers = ["192.0.2.256:143"]', f'backends.dovecot.servers[0].address: "192.0.2.256:143" is not allowed: has no valid host; {SERVER}'),
        ('backends.dovecot.servers = ["*:143"]', f'backends.dovecot.servers[0].address: "*:143" is not allowed: a server needs a host name or an IP address; {SERVER}'),
        ('backends.dovecot.servers = ["192.0.2.1:0"]', f"backends.dovecot.servers[0].address: \"192.0.2.1:0\" is not allowed: port '0' is not a number from 1 to 65535; {SERVER}"),
        ('backends.dovecot.servers = ["d 1"]', f'backends.dovecot.servers[0].address: "d 1" is not allowed: has blanks in it; {SERVER}'),
        ('backends.dovecot.servers = ["imaps://d1"]', f'backends.dovecot.servers[0].address: "imaps://d1" is not allowed: is a URL; {SERVER}'),
        ('backends.dovecot.servers = [""]', f'backends.dovecot.servers[0].address: "" is not allowed: has no valid host; {SERVER}'),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = ["10.0.0.1/8"] }]', f'frontends.imap.bind[0].accept_proxy[0]: "10.0.0.1/8" is not allowed: has host bits set: "10.0.0.0/8" is the network; {PROXY_SOURCE}'),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = ["trusted"] }]', f'frontends.imap.bind[0].accept_proxy[0]: "trusted" is not allowed: {PROXY_SOURCE}'),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = ["Unix"] }]', f'frontends.imap.bind[0].accept_proxy[0]: "Unix" is not allowed: {PROXY_SOURCE}'),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = [true] }]', f"frontends.imap.bind[0].accept_proxy[0]: true is not allowed: {PROXY_SOURCE}"),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = "10.0.0.0/8" }]', 'frontends.imap.bind[0].accept_proxy: "10.0.0.0/8" is not allowed: a list, ["10.0.0.0/8"]'),
        ('frontends.imap.routes = [{ client = ["10.0.0.1/8"], reject = true }]', f'frontends.imap.routes[0].client[0]: "10.0.0.1/8" is not allowed: has host bits set: "10.0.0.0/8" is the network; {NETWORK}'),
        ('frontends.imap.routes = [{ client = ["unix"], reject = true }]', f'frontends.imap.routes[0].client[0]: "unix" is not allowed: {NETWORK}'),
        ("frontends.imap.routes = [{ port = [0], reject = true }]", "frontends.imap.routes[0].port[0]: 0 is not allowed: a port from 1 to 65535"),
    ),
    "contradicting binds": (
        ('frontends.imap.bind = [{ address = "*:993" }, { address = "127.0.0.1:993" }]', 'frontends.imap.bind[1].address: "127.0.0.1:993" overlaps with "*:993" at frontends.imap.bind[0].address'),
        ('frontends.imap.bind = [{ address = "[::1]:993" }, { address = "[::]:993" }]', 'frontends.imap.bind[1].address: "[::]:993" overlaps with "[::1]:993" at frontends.imap.bind[0].address'),
        ('frontends.imap.bind = [{ address = "[::]:993" }, { address = "*:993" }]', 'frontends.imap.bind[1].address: "*:993" overlaps with "[::]:993" at frontends.imap.bind[0].address'),
        ('frontends.imap.bind = [{ address = "[0::0]:993" }, { address = "[::]:993", name = "again" }]', 'frontends.imap.bind[1].address (again): "[::]:993" overlaps with "[::]:993" at frontends.imap.bind[0].address'),
        ('frontends.imap.bind = [{ address = "fd:3" }, { address = "fd:3", name = "again" }]', 'frontends.imap.bind[1].address (again): "fd:3" overlaps with "fd:3" at frontends.imap.bind[0].address'),
        ('frontends.other.bind = [{ address = "127.0.0.1:1143" }]', 'frontends.other.bind[0].address: "127.0.0.1:1143" overlaps with "127.0.0.1:1143" at frontends.imap.bind[0].address'),
        ('frontends.imap.bind = [{ address = "unix:/run/x.sock" }]\nbackends.dovecot.servers = ["192.0.2.1"]', "frontends.imap.bind[0].address: has no port for server 192.0.2.1 of backend dovecot, which has none either: give the backend a port"),
        ('frontends.imap.bind = [{ address = "unix:/run/x.sock", keepalive = true }]', 'frontends.imap.bind[0].keepalive: has no meaning for "unix:/run/x.sock"'),
        ('frontends.imap.bind = [{ address = "fd:3", tcp_user_timeout = "30s" }]', 'frontends.imap.bind[0].tcp_user_timeout: has no meaning for "fd:3"'),
        ('frontends.imap.bind = [{ address = "fd:3", backlog = 9 }]', 'frontends.imap.bind[0].backlog: has no meaning for "fd:3": it listens already'),
        ('frontends.imap.bind = ["*:143", "*:143"]', 'frontends.imap.bind[1].address: "*:143" overlaps with "*:143" at frontends.imap.bind[0].address'),
        ('frontends.imap.bind = [{ address = "*:143", unix_mode = "0600" }]', 'frontends.imap.bind[0].unix_mode: has no meaning for "*:143": unix: addresses only'),
        ('frontends.imap.bind = [{ address = "*:143", v6only = true }]', 'frontends.imap.bind[0].v6only: has no meaning for "*:143": IPv6 addresses only'),
    ),
    "starttls towards servers": (
        ('backends.dovecot.tls.mode = "starttls"', f"backends.dovecot.tls.mode: {NO_PROTOCOL}"),
        ('backends.dovecot.servers = [{ address = "192.0.2.1:143", tls = { mode = "starttls" } }]', f"backends.dovecot.servers[0].tls.mode: {NO_PROTOCOL}"),
        ('defaults.server.tls.mode = "starttls"', f"defaults.server.tls.mode: {NO_PROTOCOL}"),
    ),
    "certificates": (
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls" }]', "frontends.imap.bind[0]: mode tls needs certificates: give tls.certificates to the bind or its frontend, or tls.acme"),
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls", tls = { certificates = [] } }]', "frontends.imap.bind[0]: mode tls needs certificates: give tls.certificates to the bind or its frontend, or tls.acme"),
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls", tls = { certificates = ["a.pem", "b.pem"], key = "k.pem" } }]', f"frontends.imap.bind[0].tls.key: {ONE_FILE}"),
        ('frontends.imap.bind = [{ address = "*:143", mode = "forward", tls = { certificates = ["a.pem"] } }]', 'frontends.imap.bind[0].tls: has no meaning with mode "forward": TLS is not terminated here'),
        ('frontends.imap.bind = [{ address = "*:993", mode = "passthrough", tls = { certificates = ["a.pem"] } }]', 'frontends.imap.bind[0].tls: has no meaning with mode "passthrough": TLS is not terminated here'),
        ('frontends.imap.bind = [{ address = "*:143", tls = { certificates = ["a.pem"] } }]', 'frontends.imap.bind[0].tls: has no meaning with mode "forward": TLS is not terminated here'),
        ('frontends.imap.tls.certificates = ["a.pem"]', f"frontends.imap.tls: {NOT_TERMINATED}"),
        ('frontends.imap.tls.certificates = ["a.pem"]\nfrontends.imap.bind = [{ address = "*:143", mode = "starttls" }]', 'frontends.imap.bind[0].mode: "starttls" needs a mail protocol: give frontends.imap.protocol, such as "imap"'),
        ('frontends.imap.bind = [{ address = "*:143", mode = "starttls" }]\nfrontends.imap.protocol = "imap"', "frontends.imap.bind[0]: mode starttls needs certificates: give tls.certificates to the bind or its frontend, or tls.acme"),
        ('frontends.imap.bind = [{ address = "*:143", starttls_required = false }]', 'frontends.imap.bind[0].starttls_required: has no meaning with mode "forward": only mode "starttls" upgrades sessions'),
        ('frontends.imap.tls.certificates = ["a.pem"]\nfrontends.imap.bind = []', "frontends.imap: has no bind: at least one [[frontends.imap.bind]] is needed"),
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls", tls = { certificates = [""] } }]', 'frontends.imap.bind[0].tls.certificates[0]: "" is not allowed: a path'),
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls" }]\nfrontends.imap.tls = { certificates = ["a.pem", "b.pem"], key = "k.pem" }', f"frontends.imap.tls.key: {ONE_FILE}"),
        ("frontends.imap.tls.certificates = [5]", "frontends.imap.tls.certificates[0]: 5 is not allowed: a path"),
        ('frontends.imap.tls.certificates = ["a.pem", { key = "b.key" }]', "frontends.imap.tls.certificates[1]: certificate is missing: PEM file with the certificate and its chain, or a folder of such files"),
        ('frontends.imap.tls.certificates = [{ certificate = "", key = "b.key" }]', 'frontends.imap.tls.certificates[0].certificate: "" is not allowed: a path'),
        ('frontends.imap.tls.certificates = [{ certificate = "a.pem", key = 5 }]', "frontends.imap.tls.certificates[0].key: 5 is not allowed: a path"),
        ('frontends.imap.tls.certificates = [{ certificate = "a.pem", kye = "b.key" }]', "frontends.imap.tls.certificates[0].kye: unknown key, did you mean key?"),
        ('frontends.imap.tls.certificates = [{ certificate = "a.pem", key = "${MAILPROXY_NOWHERE}" }]', "frontends.imap.tls.certificates[0].key: the environment has no MAILPROXY_NOWHERE"),
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls" }]\nfrontends.imap.tls = { certificates = [{ certificate = "a.pem", key = "a.key" }], key = "b.key" }', "frontends.imap.tls.key: is given twice: the certificate has a key of its own"),
        ('process.user = "#x"', 'process.user: "#x" is not allowed: a name, or a number such as "#80"'),
        ('process.group = "#4294967295"', 'process.group: "#4294967295" is not allowed: a name, or a number such as "#80"'),
        ('frontends.imap.tls.certificates = [""]', 'frontends.imap.tls.certificates[0]: "" is not allowed: a path'),
        ('backends.dovecot.servers = ["unix:/run/d.sock"]\nbackends.dovecot.tls = {}', "backends.dovecot.servers[0]: tls.server_name is missing: a Unix socket has no name to verify"),
    ),
    "client certificates": (
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_verify = "required" }}', 'frontends.imap.tls.client_ca: is missing: client_verify = "required" needs the CA to verify by'),
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_verify = "optional" }}', 'frontends.imap.tls.client_ca: is missing: client_verify = "optional" needs the CA to verify by'),
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_verify = "required", client_crl = "crl.pem" }}', 'frontends.imap.tls.client_ca: is missing: client_verify = "required" needs the CA to verify by'),
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_verify = "yes" }}', 'frontends.imap.tls.client_verify: "yes" is not allowed: one of none, optional, required'),
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_ca = "ca.pem" }}', f"frontends.imap.tls.client_ca: {NO_VERIFY}"),
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_ca = "ca.pem", client_verify = "none" }}', f"frontends.imap.tls.client_ca: {NO_VERIFY}"),
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_crl = "crl.pem" }}', "frontends.imap.tls.client_crl: has no meaning without client_verify"),
        (f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_ca = "ca.pem", client_crl = "crl.pem" }}', "frontends.imap.tls.client_crl: has no meaning without client_verify"),
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls", tls = { certificates = ["a.pem"], client_verify = "required" } }]', 'frontends.imap.bind[0].tls.client_ca: is missing: client_verify = "required" needs the CA to verify by'),
        ('frontends.imap.bind = [{ address = "*:993", mode = "tls", tls = { client_verify = "optional" } }]\nfrontends.imap.tls.certificates = ["a.pem"]', 'frontends.imap.bind[0].tls.client_ca: is missing: client_verify = "optional" needs the CA to verify by'),
        (f'{TERMINATED}frontends.imap.tls.certificates = ["a.pem"]\ndefaults.frontend.tls.client_verify = "required"', 'defaults.frontend.tls.client_ca: is missing: client_verify = "required" needs the CA to verify by'),
        (f'{TERMINATED}frontends.imap.tls.certificates = ["a.pem"]\ndefaults.frontend.tls.client_ca = "ca.pem"', f"defaults.frontend.tls.client_ca: {NO_VERIFY}"),
        (f'{TERMINATED}frontends.imap.tls.certificates = ["a.pem"]\ndefaults.bind.tls.client_crl = "crl.pem"', "defaults.bind.tls.client_crl: has no meaning without client_verify"),
        (f'{TERMINATED}frontends.imap.tls.certificates = ["a.pem"]\nfrontends.imap.profile = "x"\nprofiles.x.frontend.tls.client_ca = "ca.pem"', f"profiles.x.frontend.tls.client_ca: {NO_VERIFY}"),
        (f'{TERMINATED}frontends.imap.tls.certificates = ["a.pem"]\nfrontends.imap.profile = "x"\nprofiles.x.bind.tls.client_verify = "required"', 'profiles.x.bind.tls.client_ca: is missing: client_verify = "required" needs the CA to verify by'),
        (f'{TERMINATED}frontends.imap.tls.certificates = ["a.pem", "b.pem"]\ndefaults.frontend.tls.key = "k.pem"', f"defaults.frontend.tls.key: {ONE_FILE}"),
        ('backends.dovecot.tls.key = "client.key"', "backends.dovecot.tls.key: has no meaning without tls.certificate"),
        ('backends.dovecot.servers = [{ address = "192.0.2.1:993", tls = { key = "client.key" } }]', "backends.dovecot.servers[0].tls.key: has no meaning without tls.certificate"),
        ('defaults.backend.tls.key = "client.key"\nbackends.dovecot.tls.server_name = "imap.internal"', "defaults.backend.tls.key: has no meaning without tls.certificate"),
        ('defaults.server.tls.key = "client.key"\nbackends.dovecot.tls.server_name = "imap.internal"', "defaults.server.tls.key: has no meaning without tls.certificate"),
        ('backends.dovecot.profile = "x"\nprofiles.x.server.tls.key = "client.key"', "profiles.x.server.tls.key: has no meaning without tls.certificate"),
    ),
    "accepted PROXY headers": (
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = ["unix"] }]', 'frontends.imap.bind[0].accept_proxy: "unix" has no meaning for "*:143": give networks'),
        ('frontends.imap.bind = [{ address = "*:143", accept_proxy = ["10.0.0.0/8", "unix"] }]', 'frontends.imap.bind[0].accept_proxy: "unix" has no meaning for "*:143": give networks'),
        ('defaults.bind.accept_proxy = ["unix"]', 'frontends.imap.bind[0].accept_proxy: "unix" has no meaning for "127.0.0.1:1143": give networks'),
        ('frontends.imap.bind = [{ address = "unix:/run/x.sock", accept_proxy = ["10.0.0.0/8"] }]', f"frontends.imap.bind[0].accept_proxy: {NO_UNIX_CLIENT}"),
        ('frontends.imap.bind = [{ address = "unix:/run/x.sock", proxy_optional = false }]\ndefaults.bind.accept_proxy = ["10.0.0.0/8"]', f"frontends.imap.bind[0].accept_proxy: {NO_UNIX_CLIENT}"),
        ('frontends.imap.bind = [{ address = "unix:/run/x.sock" }]\nfrontends.imap.profile = "x"\nprofiles.x.bind.accept_proxy = ["10.0.0.0/8"]', f"frontends.imap.bind[0].accept_proxy: {NO_UNIX_CLIENT}"),
        ('frontends.imap.bind = [{ address = "*:143", proxy_optional = true }]', "frontends.imap.bind[0].proxy_optional: has no meaning without accept_proxy"),
        ('frontends.imap.bind = [{ address = "*:143", proxy_optional = true, accept_proxy = [] }]', "frontends.imap.bind[0].proxy_optional: has no meaning without accept_proxy"),
        ('frontends.imap.bind = [{ address = "*:143", proxy_optional = true, accept_proxy = 3 }]', f"frontends.imap.bind[0].accept_proxy: 3 is not allowed: a list; each {PROXY_SOURCE}"),
    ),
    "sent PROXY headers": (
        ('backends.dovecot.send_proxy = "v3"', 'backends.dovecot.send_proxy: "v3" is not allowed: one of none, v1, v2, v2-ssl, v2-ssl-cn'),
        ('backends.dovecot.send_proxy = "v2"\nbackends.dovecot.send_proxy_tlvs = ["ssl"]', f'backends.dovecot.send_proxy_tlvs[0]: "ssl" is not allowed: one of {TLVS}'),
        ('backends.dovecot.send_proxy_tlvs = ["alpn"]', f"backends.dovecot.send_proxy_tlvs: {NEEDS_V2.format('none')}"),
        ('backends.dovecot.send_proxy_tlvs = ["alpn"]\nbackends.dovecot.send_proxy = "none"', f"backends.dovecot.send_proxy_tlvs: {NEEDS_V2.format('none')}"),
        ('backends.dovecot.send_proxy_tlvs = ["client-cert"]\nbackends.dovecot.send_proxy = "v1"', f"backends.dovecot.send_proxy_tlvs: {NEEDS_V2.format('v1')}"),
        ("backends.dovecot.forward_tlvs = true", f"backends.dovecot.forward_tlvs: {NEEDS_V2.format('none')}"),
        ('backends.dovecot.forward_tlvs = true\nbackends.dovecot.send_proxy = "v1"', f"backends.dovecot.forward_tlvs: {NEEDS_V2.format('v1')}"),
        ('backends.dovecot.servers = [{ address = "192.0.2.1:143", send_proxy_tlvs = ["alpn"], forward_tlvs = true }]', f"backends.dovecot.servers[0].send_proxy_tlvs: {NEEDS_V2.format('none')}", f"backends.dovecot.servers[0].forward_tlvs: {NEEDS_V2.format('none')}"),
        ('defaults.backend.send_proxy_tlvs = ["alpn"]', f"defaults.backend.send_proxy_tlvs: {NEEDS_V2.format('none')}"),
        ("defaults.server.forward_tlvs = true", f"defaults.server.forward_tlvs: {NEEDS_V2.format('none')}"),
        ('backends.dovecot.profile = "x"\nprofiles.x.backend.send_proxy_tlvs = ["crc32c"]', f"profiles.x.backend.send_proxy_tlvs: {NEEDS_V2.format('none')}"),
        ('backends.dovecot.profile = "x"\nprofiles.x.server.send_proxy_tlvs = ["crc32c"]\nprofiles.x.server.send_proxy = "v1"', f"profiles.x.server.send_proxy_tlvs: {NEEDS_V2.format('v1')}"),
        ('backends.dovecot.send_proxy_tlvs = ["alpn"]\nbackends.dovecot.send_proxy = "v4"', 'backends.dovecot.send_proxy: "v4" is not allowed: one of none, v1, v2, v2-ssl, v2-ssl-cn'),
    ),
    "routes": (
        ('frontends.imap.routes = [{ client = ["10.0.0.0/8"] }]', "frontends.imap.routes[0]: needs one of backend and reject = true"),
        ('frontends.imap.routes = [{ client = ["10.0.0.0/8"], reject = false }]', "frontends.imap.routes[0]: needs one of backend and reject = true"),
        ('frontends.imap.routes = [{ client = ["10.0.0.0/8"], backend = "dovecot", reject = true }]', "frontends.imap.routes[0]: needs one of backend and reject = true, not both"),
        ("frontends.imap.routes = [{ reject = true }, { port = [143] }]", "frontends.imap.routes[1]: needs one of backend and reject = true"),
        ('frontends.imap.routes = [{ reject = "yes" }]', 'frontends.imap.routes[0].reject: "yes" is not allowed: true or false'),
        ('frontends.imap.routes = [{ sni = ["imap.example.com"], backend = "dovecot" }]', f"frontends.imap.routes[0].sni: {NO_HELLO}"),
        ("frontends.imap.routes = [{ sni = false, reject = true }]", f"frontends.imap.routes[0].sni: {NO_HELLO}"),
        ('frontends.imap.routes = [{ alpn = ["imap"], backend = "dovecot" }]', f"frontends.imap.routes[0].alpn: {NO_HELLO}"),
        ('frontends.imap.routes = [{ sni = ["imap.example.com"], alpn = ["imap"], backend = "dovecot" }]', f"frontends.imap.routes[0].sni: {NO_HELLO}"),
        ('frontends.imap.routes = [{ mode = "passthrough", backend = "dovecot" }]', f"frontends.imap.routes[0].mode: {NO_HELLO}"),
        (f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = ["imap.example.com"], port = [143], backend = "dovecot" }}]', f"frontends.imap.routes[0].sni: {NO_PORT.format('143')}"),
        (f'{PASSTHROUGH}frontends.imap.routes = [{{ alpn = ["imap"], port = [994, 995], backend = "dovecot" }}]', f"frontends.imap.routes[0].alpn: {NO_PORT.format('994 or 995')}"),
        (f'{PASSTHROUGH}frontends.imap.routes = [{{ mode = "passthrough", port = [994], backend = "dovecot" }}]', f"frontends.imap.routes[0].mode: {NO_PORT.format('994')}"),
        ('frontends.imap.bind = [{ address = "*:993", mode = "passthrough" }, { address = "*:143" }]\nfrontends.imap.routes = [{ sni = ["imap.example.com"], port = [143], backend = "dovecot" }]', f"frontends.imap.routes[0].sni: {NO_PORT.format('143')}"),
        (f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = ["imap.example.com"], mode = "tls", backend = "dovecot" }}]', 'frontends.imap.bind[0]: a route with mode = "tls" needs certificates: give tls.certificates to the bind or its frontend, or tls.acme'),
        (f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = ["imap.example.com"], mode = "forward", backend = "dovecot" }}]', 'frontends.imap.routes[0].mode: "forward" is not allowed: one of tls, passthrough'),
        ('frontends.imap.bind = [{ address = "*:993", mode = "passthrough", tls = { certificates = ["a.pem"] } }]\nfrontends.imap.routes = [{ port = [993], backend = "dovecot" }]', 'frontends.imap.bind[0].tls: has no meaning with mode "passthrough": TLS is not terminated here'),
        ('frontends.imap.routes = [{ client = ["10.0.0.0/8"], backend = "dovekot" }]', 'frontends.imap.routes[0].backend: there is no backend "dovekot", did you mean dovecot?'),
        ('frontends.imap.routes = [{ reject = true }, { client = ["10.0.0.0/8"], backend = "exchange" }]', 'frontends.imap.routes[1].backend: there is no backend "exchange"; known are dovecot'),
        ('defaults.frontend.routes = [{ client = ["10.0.0.0/8"], backend = "exchange" }]', 'defaults.frontend.routes[0].backend: there is no backend "exchange"; known are dovecot'),
        ('profiles.unused.frontend.routes = [{ client = ["10.0.0.0/8"], backend = "exchange" }]', 'profiles.unused.frontend.routes[0].backend: there is no backend "exchange"; known are dovecot'),
        ("defaults.frontend.routes = [{ port = [143] }]", "defaults.frontend.routes[0]: needs one of backend and reject = true"),
        ('defaults.frontend.routes = [{ sni = false, reject = true }]\nfrontends.other.bind = [{ address = "*:144" }]', f"defaults.frontend.routes[0].sni: {NO_HELLO}"),
        ('frontends.imap.profile = "x"\nprofiles.x.frontend.routes = [{ alpn = ["imap"], reject = true }]', f"profiles.x.frontend.routes[0].alpn: {NO_HELLO}"),
        ('frontends.imap.bind = [{ address = "*:993", mode = "passthru" }]\nfrontends.imap.routes = [{ sni = false, reject = true }]', 'frontends.imap.bind[0].mode: "passthru" is not allowed: write "passthrough"'),
        (f"{PASSTHROUGH}frontends.imap.routes = [{{ sni = [], reject = true }}]", f"frontends.imap.routes[0].sni: [] is not allowed: {SERVER_NAMES}"),
        (f"{PASSTHROUGH}frontends.imap.routes = [{{ sni = true, reject = true }}]", f"frontends.imap.routes[0].sni: true is not allowed: {SERVER_NAMES}"),
        (f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = "imap.example.com", reject = true }}]', 'frontends.imap.routes[0].sni: "imap.example.com" is not allowed: in a list, ["imap.example.com"]'),
        *(
            (f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = ["imap.example.com", "{name}"], reject = true }}]', f'frontends.imap.routes[0].sni: ["imap.example.com", "{name}"] is not allowed: "{name}" is no server name; {SERVER_NAMES}')
            for name in ("", "*", "*.", "*example.com", "imap.*.com", "*.*.com", "imap.example.com.", ".example.com", "imap example", "b\u00fccher.example")
        ),
        ('frontends.imap.bind = [{ address = "unix:/run/x.sock" }]\nfrontends.imap.routes = [{ client = ["10.0.0.0/8"], backend = "other" }]\nbackends.other.servers = ["192.0.2.1"]', "frontends.imap.bind[0].address: has no port for server 192.0.2.1 of backend other, which has none either: give the backend a port"),
        ('frontends.imap.protocol = "imap"\nfrontends.pop.protocol = "pop3"\nfrontends.pop.routes = [{ client = ["10.0.0.0/8"], backend = "dovecot" }]\nfrontends.pop.bind = [{ address = "*:110" }]', "backends.dovecot: protocol is missing: its frontends have imap and pop3"),
        ("frontends.imap.routes = [{ snl = false, reject = true }]", "frontends.imap.routes[0].snl: unknown key, did you mean sni?"),
    ),
    "steps of a check": (
        *(
            (f"{SCRIPT}[{{ connect = {{}} }}, {{ {step} }}]", f"backends.dovecot.check.steps[1]{message}")
            for step, message in (
                ("", f": does nothing: give one of {STEP_WORDS}"),
                ("not = true", f": does nothing: give one of {STEP_WORDS}"),
                ('send = "a", expect = "b"', ": has send and expect: make a step of each"),
                ('connect = {}, send = "a", send_hex = "61"', ": has connect and send and send_hex: make a step of each"),
                ('expect = "a", expect_regex = "b"', ": has expect and expect_regex: make a step of each"),
                ('send = "a", not = true', f".not: {NOT_EXPECTING.format('send')}"),
                ('send_hex = "61", timeout = "1s"', f".timeout: {NOT_EXPECTING.format('send_hex')}"),
                ("connect = {}, timeout = 1", f".timeout: {NOT_EXPECTING.format('connect')}"),
                ('send = ""', '.send: "" is not allowed: a string that is not empty'),
                ('expect = ""', '.expect: "" is not allowed: a string that is not empty'),
                (f'expect = "{"é" * 8193}"', f'.expect: "{"é" * 75}…" is not allowed: has 16386 bytes, and no more than 16384 are matched; a string that is not empty'),
                ("expect = 3", ".expect: 3 is not allowed: a string that is not empty"),
                ('expect_regex = ""', '.expect_regex: "" is not allowed: a regular expression'),
                ('expect_regex = "*"', '.expect_regex: "*" is not allowed: nothing to repeat at position 0; a regular expression'),
                ('expect_regex = "\\\\u0041"', '.expect_regex: "\\u0041" is not allowed: bad escape \\u at position 0; a regular expression'),
                ('expect_hex = "xy"', f'.expect_hex: "xy" is not allowed: {NO_OCTETS}'),
                ('expect_hex = "123"', f'.expect_hex: "123" is not allowed: {NO_OCTETS}'),
                ('expect_hex = " "', f'.expect_hex: " " is not allowed: {NO_OCTETS}'),
                (f'expect_hex = "{"00" * 16385}"', f'.expect_hex: "{"0" * 75}…" is not allowed: has 16385 bytes, and no more than 16384 are matched; {NO_OCTETS}'),
                ('send_hex = "0x10"', f'.send_hex: "0x10" is not allowed: {NO_OCTETS}'),
                ('expect = "a", timeout = 0', f".timeout: 0 is not allowed: must be above 0; {DURATION}, above 0"),
                ('expect = "a", "not_" = true', ".not_: unknown key, did you mean not?"),
                ("connect = { port = 0 }", ".connect.port: 0 is not allowed: a port from 1 to 65535"),
                ('connect = { tls = { mode = "starttls" } }', f".connect.tls.mode: {IN_A_SCRIPT}"),
                ('connect = { tls = { key = "k.pem" } }', ".connect.tls.key: has no meaning without tls.certificate"),
                ("connect = 143", ".connect: 143 is not allowed: a table"),
            )
        ),
        (f'{SCRIPT}[{{ expect = "a" }}, 3]', "backends.dovecot.check.steps[1]: 3 is not allowed: a table"),
        (f'{SCRIPT}[{{ expect = "a" }}, {{ expect_regex = "(", not = true }}]', 'backends.dovecot.check.steps[1].expect_regex: "(" is not allowed: missing ), unterminated subpattern at position 0; a regular expression'),
        ('backends.dovecot.check = { type = "script", steps = [{ send = "a", expect = "b" }, { expect_hex = "1" }] }', f'backends.dovecot.check.steps[1].expect_hex: "1" is not allowed: {NO_OCTETS}', "backends.dovecot.check.steps[0]: has send and expect: make a step of each"),
        ('defaults.server.check.steps = [{}]\nbackends.dovecot.check = "none"', f"defaults.server.check.steps[0]: does nothing: give one of {STEP_WORDS}"),
        ('profiles.unused.backend.check.steps = [{ send = "a", not = true }]', f"profiles.unused.backend.check.steps[0].not: {NOT_EXPECTING.format('send')}"),
        ('profiles.unused.backend.servers = [{ address = "192.0.2.1", check = { steps = [{}] } }]', f"profiles.unused.backend.servers[0].check.steps[0]: does nothing: give one of {STEP_WORDS}"),
    ),
    "checks": (
        ('backends.dovecot.check = "sometimes"', 'backends.dovecot.check.type: "sometimes" is not allowed: one of none, tcp, tls, imap, pop3, smtp, lmtp, sieve, script'),
        ('backends.dovecot.check = "submission"', 'backends.dovecot.check.type: "submission" is not allowed: write "smtp"'),
        ("backends.dovecot.check = true", "backends.dovecot.check: true is not allowed: a table"),
        ('backends.dovecot.check.port = "imap"', 'backends.dovecot.check.port: "imap" is not allowed: a port from 1 to 65535'),
        ('backends.dovecot.check.tls = "yes"', 'backends.dovecot.check.tls: "yes" is not allowed: true or false'),
        ('backends.dovecot.check.send_proxy = "v3"', 'backends.dovecot.check.send_proxy: "v3" is not allowed: one of none, v1, v2, v2-ssl, v2-ssl-cn'),
        ('backends.dovecot.check = "script"', 'backends.dovecot.check.type: "script" needs steps: give check.steps'),
        ('defaults.backend.check = "script"', 'defaults.backend.check.type: "script" needs steps: give check.steps'),
        ('backends.dovecot.profile = "x"\nprofiles.x.server.check = { type = "script", steps = [] }', 'profiles.x.server.check.type: "script" needs steps: give check.steps'),
        ('backends.dovecot.check.steps = [{ expect = "a" }]', f"backends.dovecot.check.steps: {NO_SCRIPT}"),
        ('defaults.server.check = { type = "imap", steps = [{ expect = "a" }] }', f"defaults.server.check.steps: {NO_SCRIPT}"),
        ('defaults.backend.check = "imap"\nbackends.dovecot.check.steps = [{ expect = "a" }]', f"backends.dovecot.check.steps: {NO_SCRIPT}"),
        (f'{PORTLESS}{SCRIPT}[{{ expect = "a" }}]', f"backends.dovecot.check.steps[0]: {NO_CONNECT}"),
        (f"{PORTLESS}{SCRIPT}[{{ connect = {{ port = 143 }} }}, {{ connect = {{}} }}]", f"backends.dovecot.check.steps[1].connect: {NO_PORT_OF_STEP}"),
        (f'{PORTLESS}{SCRIPT}[{{ expect = "a" }}, {{ connect = {{ address = "192.0.2.9" }} }}]', f"backends.dovecot.check.steps[0]: {NO_CONNECT}", f"backends.dovecot.check.steps[1].connect: {NO_PORT_OF_STEP}"),
        (f'backends.dovecot.servers = ["192.0.2.1", "192.0.2.2", "192.0.2.3:143"]\n{SCRIPT}[{{ expect = "a" }}]', f"backends.dovecot.check.steps[0]: {NO_CONNECT}"),
        (f'{PORTLESS}defaults.backend.check = {{ type = "script", steps = [{{ connect = {{}} }}] }}', f"defaults.backend.check.steps[0].connect: {NO_PORT_OF_STEP}"),
        ('backends.dovecot.servers = [{ address = "unix:/run/d.sock", check = { address = "192.0.2.9" } }]', "backends.dovecot.servers[0].check.address: has no port, and neither has a Unix socket: give one"),
        ('backends.dovecot.servers = [{ address = "unix:/run/d.sock", check = "tls" }]', "backends.dovecot.servers[0]: check.tls.server_name is missing: a Unix socket has no name to verify"),
        ('backends.dovecot.servers = [{ address = "unix:/run/d.sock", check = { type = "imap", tls = { ca = "ca.pem" } } }]', "backends.dovecot.servers[0]: check.tls.server_name is missing: a Unix socket has no name to verify"),
        (f'backends.dovecot.servers = ["unix:/run/d.sock"]\n{SCRIPT}[{{ connect = {{ tls = {{}} }} }}]', "backends.dovecot.servers[0]: check.steps[0].connect.tls.server_name is missing: a Unix socket has no name to verify"),
        ('backends.dovecot.check.tls.key = "k.pem"', "backends.dovecot.check.tls.key: has no meaning without tls.certificate"),
        ('defaults.backend.check.tls.key = "k.pem"\nbackends.dovecot.check.tls.ca = "ca.pem"', "defaults.backend.check.tls.key: has no meaning without tls.certificate"),
        ('backends.dovecot.check.tls.mode = "starttls"', f"backends.dovecot.check.tls.mode: {NO_STARTTLS.format('tcp')}"),
        ('backends.dovecot.protocol = "imap"\nbackends.dovecot.check = { type = "tls", tls = { mode = "starttls" } }', f"backends.dovecot.check.tls.mode: {NO_STARTTLS.format('tls')}"),
        ('defaults.backend.check.tls.mode = "starttls"\nbackends.dovecot.check.type = "tcp"', f"defaults.backend.check.tls.mode: {NO_STARTTLS.format('tcp')}"),
        (f'{SCRIPT}[{{ expect = "a" }}]\nbackends.dovecot.profile = "x"\nprofiles.x.server.check.tls.mode = "starttls"', f"profiles.x.server.check.tls.mode: {NO_STARTTLS.format('script')}"),
        ('backends.dovecot.check = { type = "tls", tls = false }', 'backends.dovecot.check.tls: false has no meaning with type = "tls"'),
    ),
    "observe and stick": (
        ('backends.dovecot.observe = "connect"\nbackends.dovecot.check = false', f'backends.dovecot.observe: "connect" {NEVER_UP}'),
        ('backends.dovecot.observe = "connect"\nbackends.dovecot.check = "none"', f'backends.dovecot.observe: "connect" {NEVER_UP}'),
        ('backends.dovecot.observe = "connect"\ndefaults.backend.check = false', f'backends.dovecot.observe: "connect" {NEVER_UP}'),
        ('defaults.server.observe = "connect"\ndefaults.server.check = false', f'defaults.server.observe: "connect" {NEVER_UP}'),
        ('backends.dovecot.observe = "connect"\nbackends.dovecot.servers = ["192.0.2.1:143", { address = "192.0.2.2:143", check = false }]', f'backends.dovecot.servers[1].check: observe = "connect" {NEVER_UP}, too'),
        ('defaults.backend.observe = "connect"\nbackends.dovecot.check = "none"', f'backends.dovecot.check: observe = "connect" {NEVER_UP}, too'),
        ('backends.dovecot.servers = [{ address = "192.0.2.1:143", stick = {} }]', f"backends.dovecot.servers[0].stick: {OWN_STICK}"),
        ('defaults.server.stick.size = "1k"', f"defaults.server.stick: {OWN_STICK}"),
        ("profiles.unused.server.stick = {}", f"profiles.unused.server.stick: {OWN_STICK}"),
        ("backends.dovecot.stick = true", "backends.dovecot.stick: true is not allowed: a table"),
        ('backends.dovecot.stick.on = "sni"', 'backends.dovecot.stick.on: "sni" is not allowed: one of source'),
        ("backends.dovecot.stick.expire = 0", f"backends.dovecot.stick.expire: 0 is not allowed: must be above 0; {DURATION}, above 0"),
    ),
    "missing": (
        ("frontends.imap.bind = []", "frontends.imap: has no bind: at least one [[frontends.imap.bind]] is needed"),
        ('frontends.imap.bind = [{ name = "IMAP" }]', 'frontends.imap.bind[0] (IMAP): address is missing: "*:143" (IPv4), "[::]:993" (both families), "unix:/run/x.sock", "fd:3" or "fd:NAME" (inherited); port 0 is any'),
        ("backends.dovecot.servers = []", "backends.dovecot: has no servers: at least one is needed"),
        ('backends.dovecot.servers = [{ name = "d1" }]', 'backends.dovecot.servers[0] (d1): address is missing: "10.0.0.1:993", "10.0.0.2", "imap.internal:993", "unix:/run/x.sock"'),
        ('backends.dovecot.servers = [{ name = "d1", address = "${MAILPROXY_NOWHERE}" }]', "backends.dovecot.servers[0].address (d1): the environment has no MAILPROXY_NOWHERE"),
        ('backends.dovecot.servers = ["${MAILPROXY_NOWHERE}"]', "backends.dovecot.servers[0]: the environment has no MAILPROXY_NOWHERE"),
        ('frontends.imap.tls.certificates = ["${MAILPROXY_NOWHERE}"]', "frontends.imap.tls.certificates[0]: the environment has no MAILPROXY_NOWHERE"),
        ('log.to = "${logs/mail.log"', 'log.to: "${logs/mail.log" is not allowed: ${NAME}, ${NAME:-default}, or $$ for a dollar sign'),
        ('frontends.imap.protocol = "imap"\nfrontends.pop.protocol = "pop3"\nfrontends.pop.backend = "dovecot"\nfrontends.pop.bind = [{ address = "*:110" }]', "backends.dovecot: protocol is missing: its frontends have imap and pop3"),
    ),
    "references": (
        ('frontends.imap.backend = "dovekot"', 'frontends.imap.backend: there is no backend "dovekot", did you mean dovecot?'),
        ('frontends.imap.backend = "exchange"', 'frontends.imap.backend: there is no backend "exchange"; known are dovecot'),
        ('frontends.imap.profile = "exchange"', 'frontends.imap.profile: there is no profile "exchange"'),
        ('frontends.imap.profile = "exchange"\nprofiles.outlook.backend = {}', 'frontends.imap.profile: there is no profile "exchange"; known are outlook'),
        ('backends.dovecot.profile = "exchnge"\nprofiles.exchange.backend = {}', 'backends.dovecot.profile: there is no profile "exchnge", did you mean exchange?'),
        ('backends.dovecot.servers = [{ name = "d", address = "192.0.2.1:1" }, { name = "d", address = "192.0.2.1:2" }]', 'backends.dovecot.servers: the name "d" is used more than once'),
    ),
    "HTTP": (
        ('admin.http = "unix:/run/h"', "admin.http: unix:/run/h is no address with a port, such as 127.0.0.1:8405"),
        ('admin.http = "*:8405"', "admin.http: *:8405 can be reached from other machines: give tls and token_file, or a loopback address"),
        ('admin = { http = "192.0.2.1:8405", token_file = "t" }', "admin.http: 192.0.2.1:8405 can be reached from other machines: give tls and token_file, or a loopback address"),
        ('admin = { http = "127.0.0.1:8405", tls = {} }', "admin.tls: has no certificates"),
        ('admin.token_file = "t"', "admin.token_file: has no effect without http"),
    ),
    "unknown keys": (
        ('frontend.imap.backend = "dovecot"', "frontend: unknown key, did you mean frontends?"),
        ('logging.level = "info"', "logging: unknown key, did you mean log?"),
        ("process.max_session = 3", "process.max_session: unknown key, did you mean max_sessions?"),
        ('log = { to = "syslog:/dev/log", tag = "a b" }', 'log.tag: "a b" is not allowed: 1 to 32 letters, digits and _ . / -'),
        ('log.facility = "mail"', "log.facility: has no meaning for stderr: only syslog has one"),
        ('log.targets = [{ to = "stdout", tag = "a" }]', "log.targets[0].tag: has no meaning for stdout: only syslog has one"),
        ("log.targets = []", "log.targets: is empty: at least one target is needed"),
        ('log.targets = [{ format = "json" }]', "log.targets[0]: to is missing: stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514"),
        ('log = { format = "json", targets = [{ to = "stderr" }] }', "log.format: belongs in each table of [[log.targets]], because there are several targets"),
        ('log.targets = [{ to = "stderr" }, { to = "stderr", format = "json" }]', "log.targets[1].to: stderr is the target of log.targets[0] already"),
        ("log.colour = true", "log.colour: unknown key; known are level, format, to, facility, tag, targets"),
        ('frontends.imap.bind = [{ adress = "*:143", address = "*:143" }]', "frontends.imap.bind[0].adress: unknown key, did you mean address?"),
        ('frontends.imap.timeouts.clients = "5s"', "frontends.imap.timeouts.clients: unknown key, did you mean client?"),
        ('frontends.imap.name = "imap"', "frontends.imap.name: unknown key; known are profile, protocol, backend, max_sessions, max_sessions_per_client, max_session_rate_per_client, max_sessions_per_client_exempt, greeting, refusal, goodbye, capabilities, greeting_delay, early_talkers, max_errors, timeouts, log_null, log_start, log_steps, tls, bind, routes"),
        ('frontends.imap."a\\u001bb" = 1', 'frontends.imap."a\\u001bb": unknown key; known are profile, protocol, backend, max_sessions, max_sessions_per_client, max_session_rate_per_client, max_sessions_per_client_exempt, greeting, refusal, goodbye, capabilities, greeting_delay, early_talkers, max_errors, timeouts, log_null, log_start, log_steps, tls, bind, routes'),
        ('backends.dovecot.servers = [{ address = "192.0.2.1:143", wait = 1 }]', "backends.dovecot.servers[0].wait: unknown key, did you mean weight?"),
        ('profiles.x.fronted.protocol = "imap"', "profiles.x.fronted: unknown key, did you mean frontend?"),
        ("global.maxconn = 3", "global: unknown key: write [process] and [log]"),
        ("frontends.imap.maxconn = 3", "frontends.imap.maxconn: unknown key: write max_sessions"),
        ('backends.dovecot.servers = [{ address = "192.0.2.1:143", inter = "2s" }]', "backends.dovecot.servers[0].inter: unknown key: write check.interval"),
        ('frontends.imap.timeouts.connect = "5s"', "frontends.imap.timeouts.connect: unknown key here, it is one of a backend's timeouts; known here are client, proxy_header, handshake, negotiation, half_closed"),
        ('frontends.imap.balance = "first"', f"frontends.imap.balance: unknown key here, it is one of a backend; known here are {FRONTEND_KEYS}"),
        ('frontends.imap.address = "*:143"', f"frontends.imap.address: unknown key here, it is one of a bind and of a server and of a check; known here are {FRONTEND_KEYS}"),
        ('level = "info"', "level: unknown key here, it is one of [log]; known here are process, log, tracing, admin, metrics, acme, defaults, profiles, frontends, backends"),
        ("defaults.servers.weight = 3", "defaults.servers: unknown key, did you mean server?"),
        ('profiles.x.frontend.profile = "y"', "profiles.x.frontend.profile: unknown key; known are protocol, backend, max_sessions, max_sessions_per_client, max_session_rate_per_client, max_sessions_per_client_exempt, greeting, refusal, goodbye, capabilities, greeting_delay, early_talkers, max_errors, timeouts, log_null, log_start, log_steps, tls, bind, routes"),
    ),
    "tables for values, lists for tables": (
        ("process = 3", "process: 3 is not allowed: a table"),
        ("log = []", "log: [] is not allowed: a table"),
        ('frontends.imap.timeouts = "5s"', 'frontends.imap.timeouts: "5s" is not allowed: a table'),
        ("frontends.imap.tls = true", "frontends.imap.tls: true is not allowed: a table"),
        ('frontends.imap.bind = { address = "*:143" }', "frontends.imap.bind: a table is not allowed: a list of tables, [[frontends.imap.bind]]"),
        ("frontends.imap.bind = [143]", "frontends.imap.bind[0]: 143 is not allowed: a table"),
        ('process = [{ user = "nobody" }]', "process: a list of tables is not allowed: a table, [process] with one pair of brackets"),
        ("frontends.other = 3", "frontends.other: 3 is not allowed: a table"),
        ("backends.other = [1]", "backends.other: [1] is not allowed: a table"),
        ('backends.dovecot.servers = "192.0.2.1"', 'backends.dovecot.servers: "192.0.2.1" is not allowed: a list, ["192.0.2.1"], or tables, [[backends.dovecot.servers]]'),
        ("backends.dovecot.servers = [3]", "backends.dovecot.servers[0]: 3 is not allowed: a table"),
        ("backends.dovecot.check = 3", "backends.dovecot.check: 3 is not allowed: a table"),
        ('frontends.imap.tls.certificates = "a.pem"', 'frontends.imap.tls.certificates: "a.pem" is not allowed: a list, ["a.pem"]'),
        ('log.level = ["info", { a = 1 }]', "log.level: a list of tables is not allowed: one of debug, info, warning, error"),
        ("log.level = {}", "log.level: a table is not allowed: one of debug, info, warning, error"),
        ('defaults.server = "192.0.2.1"', 'defaults.server: "192.0.2.1" is not allowed: a table'),
        ("profiles = []", "profiles: [] is not allowed: a table for each name"),
        ("profiles.x = true", "profiles.x: true is not allowed: a table for each name"),
        ("defaults = 3", "defaults: 3 is not allowed: a table for each name"),
    ),
    "unused defaults and profiles": (
        ("defaults.bind.backlog = 0", "defaults.bind.backlog: 0 is not allowed: a whole number from 1 to 2147483647"),
        ("defaults.server.weight = 300", "defaults.server.weight: 300 is not allowed: a whole number from 0 to 256"),
        ("profiles.unused.backend.port = 0", "profiles.unused.backend.port: 0 is not allowed: a port from 1 to 65535"),
        ('profiles.unused.frontend.backend = "nowhere"', 'profiles.unused.frontend.backend: there is no backend "nowhere"; known are dovecot'),
        ('defaults.frontend.profile = "nowhere"', 'defaults.frontend.profile: there is no profile "nowhere"'),
        ('defaults.backend.profile = "nowhere"', 'defaults.backend.profile: there is no profile "nowhere"'),
        ("defaults.backend.servers = [{ weight = 1 }]\nbackends.other = {}", 'defaults.backend.servers[0]: address is missing: "10.0.0.1:993", "10.0.0.2", "imap.internal:993", "unix:/run/x.sock"'),
    ),
}  # fmt: skip

# Keys of later versions are faults. The values after "only" are those that this version supports.
NOT_YET = (
)  # fmt: skip

# Combinations that are allowed although one of the keys alone would be a fault.
ALLOWED = (
    *(f'log.to = "/dev/{device}"' for device in ("stdout", "stderr", "null", "console", "tty1", "pts/0", "fd/2")),
    'frontends.imap.bind = [{ address = "*:143", accept_proxy = ["10.0.0.0/8", "2001:db8::1"], proxy_optional = true }]',
    'frontends.imap.bind = [{ address = "unix:/run/x.sock", accept_proxy = ["unix"] }]',
    'frontends.imap.bind = [{ address = "unix:/run/x.sock", accept_proxy = ["10.0.0.0/8"], proxy_optional = true }]',
    'frontends.imap.bind = [{ address = "unix:/run/x.sock", accept_proxy = [] }]\ndefaults.bind.accept_proxy = ["10.0.0.0/8"]',
    'frontends.imap.bind = [{ address = "fd:3", accept_proxy = ["10.0.0.0/8", "unix"] }]',  # the socket's type is known only when the proxy starts
    'frontends.imap.bind = [{ address = "*:143", proxy_optional = true }]\ndefaults.bind.accept_proxy = ["10.0.0.0/8"]',
    "defaults.bind.proxy_optional = true",
    "frontends.imap.routes = [{ reject = true }]",
    'frontends.imap.routes = [{ client = ["10.0.0.0/8"], port = [143, 993], backend = "dovecot" }]',
    f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = ["*.example.com", "_imaps.example.org"], alpn = ["imap"], port = [993], backend = "dovecot" }}]',
    f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = false, mode = "passthrough", reject = true }}]',
    f'{PASSTHROUGH}frontends.imap.routes = [{{ sni = false, mode = "tls", backend = "dovecot" }}]\nfrontends.imap.tls.certificates = ["a.pem"]',
    'frontends.imap.bind = [{ address = "*:993", mode = "passthrough", tls = { certificates = ["a.pem"] } }]\nfrontends.imap.routes = [{ mode = "tls", backend = "dovecot" }]',
    # A PROXY header may name any port. The port of these binds is known only when they listen.
    'frontends.imap.bind = [{ address = "*:993", mode = "passthrough", accept_proxy = ["10.0.0.0/8"] }]\nfrontends.imap.routes = [{ sni = false, port = [994], reject = true }]',
    'frontends.imap.bind = [{ address = "*:0", mode = "passthrough" }]\nfrontends.imap.routes = [{ sni = false, port = [994], reject = true }]',
    'frontends.imap.bind = [{ address = "fd:3", mode = "passthrough" }]\nfrontends.imap.routes = [{ sni = false, port = [994], reject = true }]',
    f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_verify = "required", client_ca = "ca.pem", client_crl = "crl.pem", strict_sni = true }}',
    f'{TERMINATED}frontends.imap.tls = {{ certificates = ["a.pem"], client_verify = "optional" }}\ndefaults.frontend.tls.client_ca = "ca.pem"',
    # Inherited keys are allowed where no TLS is terminated.
    'defaults.frontend.tls = { certificates = ["a.pem", "b.pem"], client_ca = "ca.pem" }',
    'backends.dovecot.tls = { certificate = "client.pem", key = "client.key" }',
    'backends.dovecot.tls = { certificate = "client.pem" }\ndefaults.backend.tls.key = "client.key"',
    *(
        f'backends.dovecot.send_proxy = "{kind}"\nbackends.dovecot.send_proxy_tlvs = ["crc32c"]\nbackends.dovecot.forward_tlvs = true'
        for kind in ("v2", "v2-ssl", "v2-ssl-cn")
    ),
    'backends.dovecot.send_proxy = "v1"\nbackends.dovecot.send_proxy_tlvs = []\nbackends.dovecot.forward_tlvs = false',
    'backends.dovecot.servers = [{ address = "192.0.2.1:143", send_proxy = "v2" }]\nbackends.dovecot.send_proxy_tlvs = ["alpn"]',
    # A server's own type overrides an inherited script and inherited TLS.
    'defaults.backend.check = { type = "script", steps = [{ expect = "* OK" }] }\nbackends.dovecot.check = "tcp"',
    'backends.dovecot.check.tls = false\nbackends.dovecot.servers = [{ address = "192.0.2.1:993", check = "tls" }]',
    'backends.dovecot.check = { type = "none", steps = [{ expect = "* OK" }], port = 143, address = "192.0.2.9" }',
    f"{SCRIPT}[{{ connect = {{ port = 143 }} }}, {{ connect = {{ port = 993, tls = true }} }}]",
    f'{SCRIPT}[{{ expect = "*", not = true, timeout = "1s" }}, {{ send_hex = "61 62\\n0d0a" }}, {{ expect_hex = "0A" }}]',
    f'{SCRIPT}[{{ expect_regex = "[[a]" }}, {{ send = "\\u0000" }}, {{ expect = "{"a" * 16384}" }}]',
    f'{PORTLESS}{SCRIPT}[{{ connect = {{ port = 143 }} }}, {{ connect = {{ address = "192.0.2.9:143" }} }}, {{ connect = {{ address = "unix:/run/d.sock" }} }}]',
    f'{PORTLESS}{SCRIPT}[{{ expect = "a" }}, {{ connect = {{}} }}]\nbackends.dovecot.check.port = 143',
    f'{PORTLESS}{SCRIPT}[{{ expect = "a" }}]\nbackends.dovecot.check.address = "192.0.2.9:143"',
    f'{PORTLESS}{SCRIPT}[{{ expect = "a" }}]\nbackends.dovecot.port = 143',
    f'backends.dovecot.servers = ["unix:/run/d.sock"]\n{SCRIPT}[{{ expect = "a" }}, {{ connect = {{}} }}]',
    f'{PORTLESS}backends.dovecot.check = {{ type = "imap", address = "192.0.2.9" }}',
    'backends.dovecot.servers = [{ address = "unix:/run/d.sock", check = { type = "tls", tls = { server_name = "imap.internal" } } }]',
    'backends.dovecot.servers = [{ address = "unix:/run/d.sock", check = { type = "tls", tls = { verify = "none" } } }]',
    'backends.dovecot.servers = [{ address = "unix:/run/d.sock", check = { type = "tls", address = "192.0.2.9:993" } }]',
    'backends.dovecot.check = { type = "imap", tls = { mode = "starttls" } }',
    'backends.dovecot.protocol = "submission"\nbackends.dovecot.check.tls = { mode = "starttls", certificate = "c.pem", key = "k.pem" }',
    'backends.dovecot.observe = "connect"',
    'backends.dovecot.observe = "connect"\nbackends.dovecot.servers = ["192.0.2.1:143", { address = "192.0.2.2:143", check = false, observe = "none" }]',
    'defaults.backend = { observe = "connect", check = false }\nbackends.dovecot.check = "tcp"',
    "backends.dovecot.stick.size = 0",  # a table without room only gets advice
    'backends.dovecot.stick = {}\nbackends.dovecot.servers = ["192.0.2.1:143", { address = "192.0.2.2:143", stick = false, backup = true }]',
    'backends.dovecot.servers = [{ address = "192.0.2.1:143", backup = true, max_sessions = 9, slow_start = "60s" }]',
    "backends.dovecot.redispatch = 3",
    'process.certificate_interval = "1h"',
    "process.workers = 4",
    'process.workers = "auto"',
    'frontends.imap.timeouts.proxy_header = "5s"',
    "frontends.imap.max_sessions_per_client = 20",
    'frontends.imap.max_session_rate_per_client = { count = 30, per = "60s" }',
    'frontends.imap.max_session_rate_per_client = { count = 65535, per = "1d" }',
    'frontends.imap.max_sessions_per_client_exempt = ["10.0.0.0/8", "2001:db8::1"]',
)  # fmt: skip

DISABLED = (
    "process.workers = 1",
    "frontends.imap.max_sessions = 0",
    "frontends.imap.max_sessions_per_client = 0",
    "frontends.imap.max_session_rate_per_client = false",
    "frontends.imap.max_sessions_per_client_exempt = []",
    "frontends.imap.routes = []",
    'frontends.imap.bind = [{ address = "*:143", accept_proxy = [], proxy_optional = false }]',
    'frontends.imap.bind = [{ address = "*:993", mode = "tls", tls = { certificates = ["a.pem"], client_verify = "none", strict_sni = false } }]',
    'admin.mode = "660"',
    'frontends.imap.timeouts = { proxy_header = 3, negotiation = "180s" }',
    'backends.dovecot.timeouts = { queue = "60s", check = 5 }',
    "backends.dovecot.retries = 0",
    "backends.dovecot.redispatch = false",
    "backends.dovecot.max_queue = 0",
    'backends.dovecot.send_proxy = "none"',
    "backends.dovecot.send_proxy_tlvs = []",
    "backends.dovecot.forward_tlvs = false",
    'backends.dovecot.tls.mode = "implicit"',
    "backends.dovecot.stick = false",
    'backends.dovecot.on_marked_down = "none"',
    'backends.dovecot.observe = "none"',
    'backends.dovecot.check = "none"',
    "backends.dovecot.check = false",
    'backends.dovecot.check = { type = "none", interval = "10s", rise = 2, jitter = 0.2 }',
    'backends.dovecot.servers = [{ address = "192.0.2.1:143", max_sessions = 0, slow_start = "0s", backup = false, check = "none" }]',
)  # fmt: skip


def cases(table: Mapping[str, tuple[tuple[str, ...], ...]]) -> list[Any]:
    return [
        pytest.param(lines, expected, id=f"{group}: {_abbreviated(lines)}")
        for group, rows in table.items()
        for lines, *expected in rows
    ]


def _abbreviated(lines: str) -> str:
    return lines if len(lines) <= 60 else f"{lines[:57]}..."


@pytest.mark.parametrize(("lines", "expected"), cases({**FAULTY_LINES, "not yet": NOT_YET}))
def test_faulty_lines_are_reported(lines: str, expected: list[str]) -> None:
    assert faults_of(smallest_toml(lines)) == expected


def test_fault_table_has_distinct_faults() -> None:
    faults = [lines for rows in (*FAULTY_LINES.values(), NOT_YET) for _, *lines in rows]
    assert len({tuple(lines) for lines in faults}) >= 230


def test_smallest_configuration_has_no_fault() -> None:
    assert faults_of(smallest_toml("")) == []


@pytest.mark.parametrize("lines", ALLOWED)
def test_allowed_combinations_have_no_fault(lines: str) -> None:
    assert faults_of(smallest_toml(lines)) == []


@pytest.mark.parametrize("lines", DISABLED)
def test_disabled_features_may_be_written_out(lines: str) -> None:
    assert faults_of(smallest_toml(lines)) == []


def test_all_faults_are_reported_at_once() -> None:
    faults = faults_of("""
        speed = "fast"

        [log]
        level = "loud"
        colour = true

        [defaults.bind]
        backlog = 0

        [profiles.exchange.backend]
        balance = "least"

        [frontends.imap]
        protocol = "imap4"
        backend = "exchang"
        profile = "Exchange"

        [[frontends.imap.bind]]
        address = "*:143"

        [[frontends.imap.bind]]
        address = "127.0.0.1:143"

        [[frontends.imap.bind]]
        address = "993"
        mode = "tls"

        [backends.exchange]
        servers = ["192.0.2.1:port", { name = "x" }, { address = "192.0.2.1", weight = "1" }]
    """)
    assert faults == [
        "speed: unknown key; known are process, log, tracing, admin, metrics, acme, defaults, profiles, frontends, backends",
        'log.level: "loud" is not allowed: one of debug, info, warning, error',
        "log.colour: unknown key; known are level, format, to, facility, tag, targets",
        "defaults.bind.backlog: 0 is not allowed: a whole number from 1 to 2147483647",
        'profiles.exchange.backend.balance: "least" is not allowed: one of leastconn, roundrobin, source, first, random',
        'frontends.imap.protocol: "imap4" is not allowed: write "imap"',
        f'frontends.imap.bind[2].address: "993" is not allowed: has no host: "*:993" is every IPv4 address; {BIND}',
        f"backends.exchange.servers[0].address: \"192.0.2.1:port\" is not allowed: port 'port' is not a number from 1 to 65535; {SERVER}",
        'backends.exchange.servers[2].weight: "1" is not allowed: without quotes, 1',
        'backends.exchange.servers[1] (x): address is missing: "10.0.0.1:993", "10.0.0.2", "imap.internal:993", "unix:/run/x.sock"',
        'frontends.imap.backend: there is no backend "exchang", did you mean exchange?',
        'frontends.imap.profile: there is no profile "Exchange", did you mean exchange?',
    ]  # fmt: skip


def test_empty_configuration_needs_a_frontend() -> None:
    assert faults_of("") == ["frontends: has no frontend: at least one is needed"]


def test_section_of_wrong_type_is_reported_once() -> None:
    assert faults_of("frontends = 3\nbackends = 3") == [
        "frontends: 3 is not allowed: a table for each name, [frontends.NAME]",
        "backends: 3 is not allowed: a table for each name, [backends.NAME]",
    ]


def test_reference_to_invalid_section_is_not_reported() -> None:
    imap = f"frontends.imap.bind = {SMALLEST['frontends.imap.bind']}\nfrontends.imap.backend = 'dovecot'\n"
    assert faults_of(imap + "backends = 3") == [
        "backends: 3 is not allowed: a table for each name, [backends.NAME]"
    ]


def test_absolute_socket_path_may_be_too_long(tmp_path: Path) -> None:
    folder, name, other = tmp_path / ("y" * 50), "x" * 50, "z" * 50
    folder.mkdir()
    file = folder / "mailproxy.toml"
    unix = f'["unix:{name}"]'
    step = f'{{ connect = {{ address = "unix:{name}" }} }}'
    check = f'check = {{ type = "script", address = "unix:{name}", steps = [{step}] }}'
    file.write_text(
        smallest_toml(
            f"frontends.imap.bind = {unix}\nbackends.dovecot.servers = ['unix:{other}']\ndefaults.backend.{check}"
        )
    )
    with pytest.raises(ConfigError) as caught:
        mailproxy.load(file)
    message = f'"{folder}/{name}" is longer than the 107 bytes that a socket can have'
    assert [str(fault) for fault in caught.value.faults] == [
        f"frontends.imap.bind[0].address: {message}",
        f"backends.dovecot.servers[0].address: {message.replace(name, other)}",
        f"defaults.backend.check.address: {message}",
        f"defaults.backend.check.steps[0].connect.address: {message}",
    ]


def test_stick_table_is_limited_to_65536_servers() -> None:
    # The value is made here, because parsing a file with this number of servers would take seconds.
    backend = smallest_config("backends.dovecot.stick = {}").backends["dovecot"]
    merged = merge(
        [
            Layer(ROOT_PATH / "defaults" / "backend", {"stick": {}}),
            Layer(ROOT_PATH / "backends" / "dovecot", {}),
        ]
    )
    for count, facts in {
        65536: [],
        65537: [
            "defaults.backend.stick: has room for 65536 servers, and there are 65537: make two backends of them"
        ],
    }.items():
        diagnostics = Diagnostics()
        check_rules.check_stick_size(evolve(backend, servers=backend.servers * count), merged, diagnostics)
        assert list(map(str, diagnostics.faults)) == facts
    without_stick = evolve(backend, servers=(evolve(backend.servers[0], stick=None),) * 65537)
    diagnostics = Diagnostics()
    check_rules.check_stick_size(without_stick, merged, diagnostics)
    assert diagnostics.faults == []


# Faults of the file as a whole.
FAULTY_FILES = {
    "invalid TOML": (b"[frontends\n", "1:11: is not TOML: Expected ']' at the end of a table declaration"),
    "duplicate key": (b"[log]\nlevel = 'info'\nlevel = 'info'\n", "3:15: is not TOML: the key is given twice in its table"),
    "duplicate table": (b"[log]\n[log]\n", "2:5: is not TOML: log is given twice: write [log] once, or [[log]] for each table of a list"),
    "table and list of one name": (b"[[a.b-c]]\n[a.b-c]\n", "2:7: is not TOML: a.b-c is given twice: write [a.b-c] once, or [[a.b-c]] for each table of a list"),
    "duplicate quoted table": (b"[a.'b c']\n[a.'b c']\n", '2:9: is not TOML: a."b c" is given twice: write [a."b c"] once'),
    "HAProxy's": (b"global\n    daemon\n", "1:7: is not TOML: a key is followed by = and its value; a table's name is in [brackets]"),
    "yes": (b"[log]\na = yes\n", "2:5: is not TOML: yes is no value: write true"),
    "False": (b"a = [False]\n", "1:6: is not TOML: False is no value: write false"),
    "a word without quotes": (b"a = { mode = tls }\n", '1:14: is not TOML: tls is no value: strings stand in quotes, "tls"'),
    "a duration without quotes": (b"a = 30s\n", '1:7: is not TOML: 30s is no value: strings stand in quotes, "30s"'),
    "an address without quotes": (b"a = [\n  10.0.0.1:143,\n]\n", '2:7: is not TOML: 10.0.0.1:143 is no value: strings stand in quotes, "10.0.0.1:143"'),
    "no closing quote": (b'a = 1\nb = "x\nc = 2\n', "2:7: is not TOML: a closing quote is missing at the end of the line"),
    "no comma in a list": (b'a = [\n  "x"\n  "y"\n]\n', "3:3: is not TOML: a list is not closed, or a comma is missing between two of its items"),
    "no comma in a table": (b"a = { b = 1 c = 2 }\n", "1:13: is not TOML: a table is not closed, or a comma is missing between two of its keys"),
    "a lone backslash": (b'a = "C:\\q"\n', "1:10: is not TOML: write \\\\ for a backslash, or put the string in 'single quotes'"),
    "not UTF-8": (b"[log]\nx = '\xc3\xa9' # \xe9\n", "2:11: is not UTF-8: byte 0xe9; save the file as UTF-8"),
    "a zero byte": (b"\0", "1:1: is not TOML: "),
    "deep lists": (b"a = " + b"[" * 20_000, "is nested too deeply"),
    "deep tables": (b"a = " + b"{a=" * 20_000, "is nested too deeply"),
    "deep header": (b"[" + b".".join([b"frontends"] * 5_000) + b"]\n", "is nested too deeply"),
    "a number without end": (b"[process]\nmax_sessions = " + b"1" * 5_000 + b"\n", "cannot be read: Exceeds the limit (4300 digits)"),
    "huge": (b"# " + b"x" * 2**24, "is larger than 16777216 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), FAULTY_FILES.values(), ids=FAULTY_FILES.keys())
def test_invalid_file_is_one_fault(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        mailproxy.load(file)
    assert str(caught.value).startswith(f"{file}{':' if message[0].isdigit() else ': '}{message}")
    assert "\n" not in str(caught.value)
    assert len(caught.value.faults) == 1
    assert caught.value.source == str(file)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(smallest_toml(""), encoding="utf-8-sig")
    assert list(mailproxy.load(file).frontends) == ["imap"]


def test_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file or directory\Z"):
        mailproxy.load(tmp_path / "missing.toml")


def test_folder_instead_of_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        mailproxy.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_path_with_null_byte_is_a_fault() -> None:
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        mailproxy.load("mail\0proxy.toml")


def test_endless_device_is_rejected_by_size() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: is larger than 16777216 bytes"):
        mailproxy.load("/dev/zero")


def test_configuration_is_read_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-c", f"open({str(pipe)!r}, 'w').write({smallest_toml('')!r})"]
    ) as writer:
        assert list(mailproxy.load(pipe).frontends) == ["imap"]
        assert writer.wait() == 0


def test_recursive_mapping_is_a_fault() -> None:
    recursive: dict[str, Any] = {}
    recursive["frontends"] = recursive
    with pytest.raises(ConfigError, match="is nested too deeply"):
        mailproxy.from_mapping(recursive)


# The command line.


@pytest.mark.parametrize("command", ["check", "run"])
def test_command_writes_one_line_per_fault(tmp_path: Path, command: str) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        smallest_toml("log.level = 3\nfrontends.imap.backend = 'nowhere'\nbackends.dovecot.port = 0")
    )
    result = CliRunner().invoke(main, [command, str(file)])
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        f'{file}:2:16: frontends.imap.backend: there is no backend "nowhere"; known are dovecot',
        f"{file}:4:5: log.level: 3 is not allowed: one of debug, info, warning, error",
        f"{file}:5:18: backends.dovecot.port: 0 is not allowed: a port from 1 to 65535",
    ]


@pytest.mark.parametrize("content", [b"", b"[", b"\xff", b"log = 3", b"a = " + b"[" * 20_000])
def test_check_command_never_shows_a_traceback(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_bytes(content)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.output.splitlines()
    assert all(re.match(rf"{re.escape(str(file))}(:\d+:\d+)?: ", line) for line in result.output.splitlines())


@pytest.mark.parametrize("command", ["check", "run"])
def test_program_writes_faults_to_stderr(tmp_path: Path, command: str) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(smallest_toml("log.level = 'a\\nb'\nlog.colour = true".replace("'", '"')))
    result = subprocess.run(
        [sys.executable, "-m", "mailproxy", command, file.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        'mailproxy.toml:4:5: log.level: "a\\u000ab" is not allowed: one of debug, info, warning, error\n'
        "mailproxy.toml:5:5: log.colour: unknown key; known are level, format, to, facility, tag, targets\n"
    )


def test_program_reports_file_faults_with_positions(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        smallest_toml("process.user = 'nobody-here'\nfrontends.imap.bind = [{ address = '*:0', mode = 'tls' }]\n"
             "frontends.imap.tls.certificates = ['missing.pem']")
    )  # fmt: skip
    result = subprocess.run([sys.executable, "-m", "mailproxy", "run", file], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f'{file}:4:9: process.user: there is no user "nobody-here" on this machine\n'
        f"{file}:5:36: frontends.imap.tls.certificates[0]: {tmp_path}/missing.pem: No such file or directory\n"
    )


def test_correct_file_is_reported_fine(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text(smallest_toml('process.user = "nobody"\nfrontends.imap.protocol = "tcp"'))
    result = CliRunner().invoke(main, ["check", "--strict", str(file)])
    assert (result.exit_code, result.output) == (0, f"{file}: fine: 1 bind, 1 server\n")


def test_workers_are_counted_in_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        smallest_toml('process = { user = "nobody", workers = "auto" }\nfrontends.imap.protocol = "tcp"')
    )
    result = CliRunner().invoke(main, ["check", "--strict", str(file)])
    assert (result.exit_code, result.output) == (0, f"{file}: fine: 1 bind, 1 server, 2 workers\n")


# Noise.


def outcome(mapping: Mapping[str, Any]) -> mailproxy.Config | ConfigError:
    """Return what a mapping becomes. Any other exception fails the test."""
    try:
        return mailproxy.from_mapping(mapping)
    except ConfigError as error:
        return error


def assert_readable(error: ConfigError) -> None:
    assert error.faults
    assert len(set(error.faults)) == len(error.faults)
    assert len(str(error).splitlines()) == len(error.faults)
    assert all(fault.fact and str(fault).isprintable() for fault in error.faults)


@settings(max_examples=60, deadline=None)
@given(noise)
def test_noise_is_parsed_or_rejected(mapping: dict[str, Any]) -> None:
    result = outcome(mapping)
    if isinstance(result, ConfigError):
        assert_readable(result)


@settings(max_examples=120, deadline=None)
@given(mutated_mappings)
def test_mutated_configuration_is_parsed_or_rejected(mapping: dict[str, Any]) -> None:
    result = outcome(mapping)
    if isinstance(result, ConfigError):
        assert_readable(result)


@settings(max_examples=120, deadline=None)
@given(mutated_files)
def test_mutated_file_is_parsed_or_rejected(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.toml"
    file.write_bytes(data)
    try:
        mailproxy.load(file)
    except ConfigError as error:
        assert_readable(error)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_fault_names_the_replaced_value(data: st.DataObject) -> None:
    # One value of a correct configuration is replaced by a table, which is a fault at every key.
    tables = tomli.loads(FULL_CONFIG)
    paths = [path for path in _leaves(tables) if path[0] != "profiles"]
    path = data.draw(st.sampled_from(paths))
    table = tables
    for step in path[:-1]:
        table = table[step]
    table[path[-1]] = {"surprise": 1}
    result = outcome(tables)
    assert isinstance(result, ConfigError)
    assert any(fault.path.startswith(_path_text(path)) for fault in result.faults)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if path[-1:] == ("sni",):
        items = ()  # a list or false is one value with one fault
    inner = [leaf for key, item in items for leaf in _leaves(item, (*path, key))]
    return inner or [path]


def _path_text(path: tuple[Any, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
