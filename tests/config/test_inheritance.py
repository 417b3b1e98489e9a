"""Inheritance: which value applies if a key is set in defaults, profiles and enclosing tables."""

from __future__ import annotations

import pytest
import tomli

import mailproxy
from mailproxy.config import Backend, Bind, Frontend, Server, ServerTls
from tests.support.smallest_config import smallest_config, smallest_toml

MINUTE_S = 60.0


def frontend(lines: str) -> Frontend:
    return smallest_config(lines).frontends["imap"]


def bind(lines: str) -> Bind:
    return frontend(lines).bind[0]


def backend(lines: str) -> Backend:
    return smallest_config(lines).backends["dovecot"]


def server(lines: str) -> Server:
    return backend(lines).servers[0]


# From lowest to highest priority. Each table overrides those before it.
FRONTEND = ("defaults.frontend", "profiles.exchange.frontend", "frontends.imap")
BACKEND = ("defaults.backend", "profiles.exchange.backend", "backends.dovecot")
WITH_PROFILE = 'frontends.imap.profile = "exchange"\nbackends.dovecot.profile = "exchange"\n'
TLS_BIND = 'frontends.imap.bind = [{ address = "*:993", mode = "tls" }]\n'
PROFILE_EXISTS = "profiles.exchange.frontend.log_null = false\n"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_frontend_overrides_profile_overrides_defaults(count: int) -> None:
    lines = "".join(f"{table}.timeouts.client = {index}\n" for index, table in enumerate(FRONTEND[:count], 1))
    assert frontend(PROFILE_EXISTS + WITH_PROFILE + lines).timeouts.client == float(count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_backend_overrides_profile_overrides_defaults(count: int) -> None:
    lines = "".join(f"{table}.timeouts.server = {index}\n" for index, table in enumerate(BACKEND[:count], 1))
    assert backend(PROFILE_EXISTS + WITH_PROFILE + lines).timeouts.server == float(count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bind_overrides_profile_overrides_defaults(count: int) -> None:
    tables = ["defaults.bind.backlog = 1", "profiles.exchange.bind.backlog = 2"]
    own = f'frontends.imap.bind = [{{ address = "*:143"{", backlog = 3" if count == 3 else ""} }}]'
    assert bind("\n".join([PROFILE_EXISTS + WITH_PROFILE + own, *tables[:count]])).backlog == count


@pytest.mark.parametrize("count", [1, 2, 3])
def test_server_overrides_profile_overrides_defaults(count: int) -> None:
    tables = ["defaults.server.weight = 1", "profiles.exchange.server.weight = 2"]
    own = (
        f'backends.dovecot.servers = [{{ address = "192.0.2.1:143"{", weight = 3" if count == 3 else ""} }}]'
    )
    assert server("\n".join([PROFILE_EXISTS + WITH_PROFILE + own, *tables[:count]])).weight == count


# A server's TLS from lowest to highest priority: in each layer first the backend's table, then the servers'.
SERVER_TLS = (
    "defaults.backend.tls",
    "defaults.server.tls",
    "profiles.exchange.backend.tls",
    "profiles.exchange.server.tls",
    "backends.dovecot.tls",
)


@pytest.mark.parametrize("count", range(1, 6))
def test_server_tls_comes_from_highest_layer(count: int) -> None:
    lines = "".join(
        f'{table}.server_name = "s{index}"\n' for index, table in enumerate(SERVER_TLS[:count], 1)
    )
    tls = server(PROFILE_EXISTS + WITH_PROFILE + lines).tls
    assert tls is not None
    assert tls.server_name == f"s{count}"


def test_own_tls_of_server_overrides_all_layers() -> None:
    lines = "".join(f'{table}.server_name = "weak"\n' for table in SERVER_TLS)
    own = 'backends.dovecot.servers = [{ address = "192.0.2.1:993", tls = { server_name = "own" } }]'
    tls = server(WITH_PROFILE + lines + own).tls
    assert tls is not None
    assert tls.server_name == "own"


# Keys of servers that are not tables.


@pytest.mark.parametrize("count", range(1, 6))
def test_send_proxy_comes_from_highest_layer(count: int) -> None:
    kinds = ("v1", "v2-ssl", "none", "v2-ssl-cn", "v2")
    tables = (table.replace(".tls", ".send_proxy") for table in SERVER_TLS)
    pairs = list(zip(tables, kinds, strict=True))[:count]
    lines = "".join(f'{table} = "{kind}"\n' for table, kind in pairs)
    assert server(PROFILE_EXISTS + WITH_PROFILE + lines).send_proxy == kinds[count - 1]


def test_own_tlvs_of_server_replace_backend_tlvs() -> None:
    lines = """
backends.dovecot.send_proxy = "v2"
backends.dovecot.send_proxy_tlvs = ["authority", "alpn"]
backends.dovecot.forward_tlvs = true
"""
    (first, second) = backend(
        lines
        + 'backends.dovecot.servers = ["192.0.2.1:1", { address = "192.0.2.1:2", send_proxy_tlvs = ["crc32c"], forward_tlvs = false }]'
    ).servers
    assert (first.send_proxy_tlvs, first.forward_tlvs) == (("authority", "alpn"), True)
    assert (second.send_proxy_tlvs, second.forward_tlvs) == (("crc32c",), False)


def test_accept_proxy_is_inherited_by_binds() -> None:
    binds = frontend("""
defaults.bind.accept_proxy = ["10.0.0.0/8"]
frontends.imap.bind = [{ address = "*:143" }, { address = "*:993", accept_proxy = [] }]
""").bind
    assert [[str(network) for network in bind_config.accept_proxy] for bind_config in binds] == [
        ["10.0.0.0/8"],
        [],
    ]


# The same for the table that binds inherit from their frontend.
BIND_TLS = (
    "defaults.frontend.tls",
    "defaults.bind.tls",
    "profiles.exchange.frontend.tls",
    "profiles.exchange.bind.tls",
    "frontends.imap.tls",
)


@pytest.mark.parametrize("count", range(1, 6))
def test_bind_tls_comes_from_highest_layer(count: int) -> None:
    lines = "".join(f'{table}.ciphers = "c{index}"\n' for index, table in enumerate(BIND_TLS[:count], 1))
    certificates = 'defaults.frontend.tls.certificates = ["/a.pem"]\n'
    tls = bind(PROFILE_EXISTS + WITH_PROFILE + TLS_BIND + certificates + lines).tls
    assert tls is not None
    assert tls.ciphers == f"c{count}"


def test_tables_merge_key_by_key() -> None:
    tls = server("""
defaults.backend.tls = { min_version = "1.3", verify = "none" }
backends.dovecot.profile = "exchange"
profiles.exchange.backend.tls = { verify = "chain", ca = "/ca.pem" }
backends.dovecot.tls = { server_name = "imap.internal" }
backends.dovecot.servers = [{ address = "192.0.2.1:993", tls = { ciphers = "ECDHE" } }]
""").tls  # fmt: skip
    assert tls is not None
    assert (tls.min_version, tls.verify, str(tls.ca), tls.server_name, tls.ciphers) == (
        "1.3", "chain", "/ca.pem", "imap.internal", "ECDHE",
    )  # fmt: skip


def test_timeouts_merge_one_by_one() -> None:
    timeouts = frontend("""
defaults.frontend.timeouts = { handshake = "7s", client = "1m" }
frontends.imap.timeouts = { client = "2m" }
""").timeouts
    assert (timeouts.client, timeouts.handshake, timeouts.half_closed) == (120.0, 7.0, 60.0)


def test_lists_replace_inherited_lists() -> None:
    parsed = frontend(
        TLS_BIND
        + """
defaults.frontend.tls.certificates = ["/a.pem", "/b.pem"]
frontends.imap.tls.certificates = ["/c.pem"]
defaults.frontend.tls.alpn = ["imap"]
"""
    )
    assert parsed.tls is not None
    assert [str(pair.certificate) for pair in parsed.tls.certificates] == ["/c.pem"]
    assert parsed.tls.alpn == ("imap",)


def test_lists_of_tables_are_replaced_or_inherited() -> None:
    servers = 'defaults.backend.servers = [{ name = "a", address = "192.0.2.1" }, { name = "b", address = "192.0.2.2" }]\n'
    parsed = mailproxy.from_mapping(
        tomli.loads(
            smallest_toml(servers + 'backends.other.servers = ["192.0.2.9"]\nbackends.heir.port = 143')
        )
    )
    assert [server_config.name for server_config in parsed.backends["other"].servers] == ["192.0.2.9"]
    assert [str(server_config.address) for server_config in parsed.backends["heir"].servers] == [
        "192.0.2.1:143",
        "192.0.2.2:143",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        "frontends.imap.bind = [{ address = '*:143', tls = false }]",
        "frontends.imap.tls = false",
        "profiles.exchange.frontend.tls = false",
    ],
)
def test_false_disables_bind_tls(lines: str) -> None:
    assert bind(PROFILE_EXISTS + WITH_PROFILE + "defaults.frontend.tls.ciphers = 'c'\n" + lines).tls is None


@pytest.mark.parametrize(
    "lines",
    [
        "backends.dovecot.servers = [{ address = '192.0.2.1', tls = false }]",
        "backends.dovecot.tls = false",
        "profiles.exchange.server.tls = false",
    ],
)
def test_false_disables_server_tls(lines: str) -> None:
    assert server(PROFILE_EXISTS + WITH_PROFILE + "defaults.backend.tls.ciphers = 'c'\n" + lines).tls is None


def test_one_server_of_tls_backend_without_tls() -> None:
    servers = backend("""
backends.dovecot.tls.ca = "/ca.pem"
backends.dovecot.servers = [{ address = "192.0.2.1:993" }, { address = "192.0.2.2:143", tls = false }]
""").servers
    assert [server_config.tls is not None for server_config in servers] == [True, False]


def test_table_after_false_inherits_nothing_before() -> None:
    tls = server("""
defaults.backend.tls = { ca = "/weak.pem", ciphers = "weak" }
backends.dovecot.tls = false
backends.dovecot.servers = [{ address = "192.0.2.1", tls = { ciphers = "own" } }]
""").tls
    assert tls is not None
    assert (tls.ciphers, tls.ca) == ("own", None)


# Checks are enabled by default.

OWN_SERVER = 'backends.dovecot.servers = [{{ address = "192.0.2.1:143", {} }}]'
DISABLED = ["check = false", 'check = "none"', 'check = { type = "none", rise = 5 }']


def test_server_is_checked_by_default() -> None:
    check = server("").check
    assert check is not None
    assert (check.type, check.interval, check.fast_interval, check.down_interval) == (None, 10.0, None, None)
    assert (check.rise, check.fall, check.jitter) == (2, 3, 0.2)
    assert (check.port, check.address, check.tls, check.send_proxy, check.timeout, check.steps) == (
        None, None, None, None, None, (),
    )  # fmt: skip


@pytest.mark.parametrize("disabled", DISABLED)
@pytest.mark.parametrize("table", [table.removesuffix(".tls") for table in SERVER_TLS])
def test_checks_can_be_disabled_in_every_layer(table: str, disabled: str) -> None:
    assert server(f"{PROFILE_EXISTS}{WITH_PROFILE}{table}.{disabled}").check is None


def test_check_type_none_holds_until_overridden() -> None:
    lines = "backends.dovecot.check = { type = 'none', rise = 5 }\n"
    assert server(lines + OWN_SERVER.format("check.fall = 9")).check is None
    check = server(lines + OWN_SERVER.format("check = 'tcp'")).check
    assert check is not None
    assert (check.type, check.rise) == ("tcp", 5)


@pytest.mark.parametrize("disabled", DISABLED)
def test_check_of_one_server_can_be_disabled(disabled: str) -> None:
    servers = backend(f"""
backends.dovecot.check = "tcp"
backends.dovecot.servers = [{{ address = "192.0.2.1:143", {disabled} }}, "192.0.2.2:143"]
""").servers
    assert [server_config.check and server_config.check.type for server_config in servers] == [None, "tcp"]


@pytest.mark.parametrize("enabled", ["check = {}", 'check = "tcp"', "check.rise = 2"])
def test_check_of_one_server_can_be_enabled(enabled: str) -> None:
    check = server(
        f"defaults.backend.check.interval = 7\nbackends.dovecot.check = false\n{OWN_SERVER.format(enabled)}"
    ).check
    assert check is not None
    assert check.interval == 10.0  # no value from before the false is inherited


@pytest.mark.parametrize("count", range(1, 6))
def test_server_check_comes_from_highest_layer(count: int) -> None:
    lines = "".join(
        f"{table.replace('.tls', '.check')}.fall = {index}\n"
        for index, table in enumerate(SERVER_TLS[:count], 1)
    )
    check = server(PROFILE_EXISTS + WITH_PROFILE + lines).check
    assert check is not None
    assert check.fall == count


def test_check_is_inherited_and_short_form_merges() -> None:
    check = server("""
defaults.backend.check = { type = "imap", interval = "7s", rise = 5 }
backends.dovecot.check = { rise = 4 }
backends.dovecot.servers = [{ address = "192.0.2.1", check = "tcp" }]
""").check
    assert check is not None
    assert (check.type, check.interval, check.rise) == ("tcp", 7.0, 4)


def test_check_short_form_is_allowed_in_every_layer() -> None:
    for table in (
        "defaults.backend",
        "defaults.server",
        "profiles.exchange.backend",
        "profiles.exchange.server",
    ):
        check = server(f'{PROFILE_EXISTS}{WITH_PROFILE}{table}.check = "imap"').check
        assert check is not None
        assert check.type == "imap"


def test_check_tls_merges_and_boolean_replaces() -> None:
    lines = 'backends.dovecot.check.tls = { ca = "/ca.pem" }\n'
    merged = server(lines + OWN_SERVER.format('check.tls.verify = "chain"')).check
    replaced = server(lines + OWN_SERVER.format("check.tls = true")).check
    assert merged is not None
    assert isinstance(merged.tls, ServerTls)
    assert (str(merged.tls.ca), merged.tls.verify) == ("/ca.pem", "chain")
    assert replaced is not None
    assert replaced.tls is True


def test_script_replaces_inherited_script() -> None:
    check = server(
        'backends.dovecot.check = { type = "script", steps = [{ expect = "a" }, { send = "b" }] }\n'
        + OWN_SERVER.format('check.steps = [{ expect_hex = "2A", not = true }]')
    ).check
    assert check is not None
    assert [(step.expect_hex, step.not_) for step in check.steps] == [("2A", True)]


def test_server_inherits_stick_or_disables_stick() -> None:
    servers = backend("""
backends.dovecot.stick = { size = "1k", expire = "5m" }
backends.dovecot.servers = ["192.0.2.1:143", { address = "192.0.2.2:143", stick = false }]
""").servers
    assert [
        server_config.stick
        and (server_config.stick.size, server_config.stick.expire, server_config.stick.prefix_v6)
        for server_config in servers
    ] == [
        (1024, 300.0, 64),
        None,
    ]


def test_inherited_stick_table_can_be_disabled() -> None:
    parsed = backend("defaults.backend.stick = {}\nbackends.dovecot.stick = false")
    assert (parsed.stick, parsed.servers[0].stick) == (None, None)


def test_client_rate_limit_merges_and_can_be_disabled() -> None:
    defaults = "defaults.frontend.max_session_rate_per_client = { count = 30 }\n"
    rate = frontend(
        defaults + 'frontends.imap.max_session_rate_per_client.per = "10s"'
    ).max_session_rate_per_client
    assert rate is not None
    assert (rate.count, rate.per) == (30, 10.0)
    assert frontend(defaults).limits_clients
    rate = frontend(
        f"{defaults}frontends.imap.max_session_rate_per_client = false"
    ).max_session_rate_per_client
    assert rate is None


def test_clients_have_no_limits_by_default() -> None:
    parsed = frontend("")
    assert (parsed.max_sessions_per_client, parsed.max_session_rate_per_client) == (0, None)
    assert not parsed.limits_clients
    assert frontend("frontends.imap.max_sessions_per_client = 1").limits_clients


def test_client_rate_limit_period_defaults_to_one_minute() -> None:
    rate = frontend("frontends.imap.max_session_rate_per_client = { count = 30 }").max_session_rate_per_client
    assert rate is not None
    assert rate.per == 60.0


def test_servers_inherit_passive_health_keys() -> None:
    servers = backend("""
defaults.backend.on_marked_down = "shutdown-sessions"
backends.dovecot.observe = "connect"
backends.dovecot.error_clients = 2
backends.dovecot.servers = ["192.0.2.1:143", { address = "192.0.2.2:143", observe = "none", error_limit = 3, on_marked_down = "none" }]
""").servers
    assert [
        (
            server_config.on_marked_down,
            server_config.observe,
            server_config.error_limit,
            server_config.error_clients,
        )
        for server_config in servers
    ] == [
        ("shutdown-sessions", "connect", 10, 2),
        ("none", "none", 3, 2),
    ]


def test_profile_can_be_set_in_defaults() -> None:
    assert (
        frontend(
            'defaults.frontend.profile = "slow"\nprofiles.slow.frontend.timeouts.client = 77'
        ).timeouts.client
        == 77.0
    )


def test_own_profile_replaces_default_profile() -> None:
    timeouts = frontend("""
defaults.frontend.profile = "slow"
frontends.imap.profile = "fast"
profiles.slow.frontend.timeouts = { client = 77, handshake = 7 }
profiles.fast.frontend.timeouts = { client = 66 }
""").timeouts
    assert (timeouts.client, timeouts.handshake) == (66.0, 10.0)


def test_profile_applies_only_if_named() -> None:
    assert frontend('profiles.slow.frontend.timeouts.client = 77\nfrontends.imap.protocol = "imap"').timeouts.client == 31 * MINUTE_S  # fmt: skip


def test_profile_layers_apply_to_their_own_tables() -> None:
    parsed = smallest_config("""
frontends.imap.profile = "exchange"
profiles.exchange.frontend.timeouts.client = 600
profiles.exchange.bind.backlog = 10000
profiles.exchange.backend.timeouts.server = 600
profiles.exchange.server.weight = 9
""")
    assert parsed.frontends["imap"].timeouts.client == 600.0
    assert parsed.frontends["imap"].bind[0].backlog == 10_000
    assert parsed.backends["dovecot"].timeouts.server == 31 * MINUTE_S
    assert parsed.backends["dovecot"].servers[0].weight == 1


def test_frontends_do_not_share_inherited_tables() -> None:
    parsed = smallest_config(
        TLS_BIND
        + """
defaults.frontend.tls.certificates = ["/a.pem"]
frontends.imap.tls.ciphers = "one"
frontends.other.bind = [{ address = "*:2" }]
"""
    )
    tls = [parsed.frontends[name].tls for name in ("imap", "other")]
    assert [table.ciphers for table in tls if table] == ["one", None]


# Computed defaults.

PROTOCOLS = {"imap": 31, "tcp": 31, "pop3": 10, "submission": 10, "smtp": 10, "lmtp": 10, "sieve": 10}


@pytest.mark.parametrize(("protocol", "minutes"), PROTOCOLS.items())
def test_idle_timeouts_depend_on_the_protocol(protocol: str, minutes: int) -> None:
    parsed = smallest_config(f'frontends.imap.protocol = "{protocol}"')
    assert parsed.frontends["imap"].timeouts.client == minutes * MINUTE_S
    assert parsed.backends["dovecot"].timeouts.server == minutes * MINUTE_S


def test_frontend_has_documented_defaults() -> None:
    parsed = frontend("")
    assert parsed.protocol == "tcp"
    timeouts = parsed.timeouts
    assert (timeouts.client, timeouts.proxy_header, timeouts.handshake, timeouts.negotiation, timeouts.half_closed) == (
        31 * MINUTE_S, 3.0, 10.0, 180.0, 60.0,
    )  # fmt: skip


def test_backend_has_documented_defaults() -> None:
    parsed = backend("")
    assert (parsed.timeouts.connect, parsed.timeouts.queue, parsed.timeouts.check) == (5.0, 60.0, 5.0)
    assert (parsed.balance, parsed.resolve_interval, parsed.port, parsed.tls) == (
        "leastconn",
        30.0,
        None,
        None,
    )
    assert (parsed.retries, parsed.redispatch, parsed.max_queue, parsed.stick) == (3, True, 0, None)
    assert (parsed.on_marked_down, parsed.observe, parsed.error_limit, parsed.error_clients) == (
        "none",
        "none",
        10,
        1,
    )
    assert (parsed.send_proxy, parsed.send_proxy_tlvs, parsed.forward_tlvs) == (None, (), False)


def test_server_has_documented_defaults() -> None:
    parsed = server("")
    assert (parsed.weight, parsed.max_sessions, parsed.slow_start, parsed.backup) == (1, 0, 0.0, False)


def test_stick_table_has_documented_defaults() -> None:
    stick = backend("backends.dovecot.stick = {}").stick
    assert stick is not None
    assert (stick.on, stick.size, stick.expire, stick.prefix_v4, stick.prefix_v6) == (
        "source", 204_800, 1800.0, 32, 64,
    )  # fmt: skip


def test_accept_proxy_and_routes_default_to_empty() -> None:
    assert (bind("").accept_proxy, bind("").proxy_optional) == ((), False)
    assert frontend("").routes == ()


def test_bind_tls_verifies_nothing_by_default() -> None:
    tls = bind(TLS_BIND + 'frontends.imap.tls.certificates = ["/a.pem"]').tls
    assert tls is not None
    assert (tls.client_verify, tls.client_ca, tls.client_crl, tls.strict_sni) == ("none", None, None, False)


def test_sni_patterns_are_lower_cased() -> None:
    (route,) = frontend("""
frontends.imap.bind = [{ address = "*:993", mode = "passthrough" }]
frontends.imap.routes = [{ sni = ["IMAP.Example.com", "*.Example.ORG"], backend = "dovecot" }]
""").routes
    assert route.sni == ("imap.example.com", "*.example.org")


def test_backend_names_include_those_of_routes() -> None:
    parsed = frontend("""
frontends.imap.routes = [{ port = [1], backend = "b" }, { port = [2], reject = true }, { port = [3], backend = "dovecot" }, { port = [4], backend = "b" }]
backends.b.servers = ["192.0.2.2:143"]
""")
    assert parsed.backend_names == ("dovecot", "b")


def test_process_and_log_have_documented_defaults() -> None:
    parsed = smallest_config("")
    assert (parsed.process.workers, parsed.process.max_sessions, parsed.process.drain_timeout) == (
        1,
        None,
        30.0,
    )
    assert (parsed.process.user, parsed.process.group, parsed.process.certificate_interval) == (
        None,
        None,
        10.0,
    )
    assert (parsed.log.level, parsed.log.format, str(parsed.log.to)) == ("info", "text", "stderr")


def test_protocol_in_defaults_sets_idle_timeout() -> None:
    assert frontend('defaults.frontend.protocol = "pop3"').timeouts.client == 10 * MINUTE_S


def test_backend_protocol_follows_its_frontends() -> None:
    lines = 'frontends.imap.protocol = "pop3"\nfrontends.two = { protocol = "pop3", backend = "dovecot", bind = [{ address = "*:2" }] }'
    assert backend(lines).protocol == "pop3"


def test_own_protocol_of_backend_overrides_frontends() -> None:
    lines = 'frontends.two = { protocol = "pop3", backend = "dovecot", bind = [{ address = "*:2" }] }\nbackends.dovecot.protocol = "imap"'
    parsed = backend(lines)
    assert (parsed.protocol, parsed.timeouts.server) == ("imap", 31 * MINUTE_S)


def test_unused_backend_has_protocol_tcp() -> None:
    assert smallest_config('backends.spare.servers = ["192.0.2.9"]').backends["spare"].protocol == "tcp"


def test_frontend_without_backend_is_allowed() -> None:
    parsed = mailproxy.from_mapping({"frontends": {"closed": {"bind": [{"address": "127.0.0.1:0"}]}}})
    assert parsed.frontends["closed"].backend is None
    assert parsed.backends == {}


def test_backend_port_completes_server_addresses() -> None:
    servers = backend("""
backends.dovecot.port = 143
backends.dovecot.servers = ["192.0.2.1", "192.0.2.2:993", "[2001:db8::1]", "imap.internal", "unix:/run/imap.sock"]
""").servers
    assert [str(server_config.address) for server_config in servers] == [
        "192.0.2.1:143",
        "192.0.2.2:993",
        "[2001:db8::1]:143",
        "imap.internal:143",
        "unix:/run/imap.sock",
    ]


def test_server_without_any_port_keeps_none() -> None:
    assert str(server('backends.dovecot.servers = ["192.0.2.1"]').address) == "192.0.2.1"


def test_server_name_excludes_backend_port() -> None:
    parsed = server('backends.dovecot.port = 143\nbackends.dovecot.servers = ["192.0.2.1"]')
    assert (parsed.name, str(parsed.address)) == ("192.0.2.1", "192.0.2.1:143")


def test_server_may_disable_send_proxy_despite_tlvs() -> None:
    config = mailproxy.from_mapping(
        {
            "frontends": {"f": {"backend": "b", "bind": ["127.0.0.1:143"]}},
            "backends": {
                "b": {
                    "send_proxy": "v2",
                    "send_proxy_tlvs": ["unique-id"],
                    "servers": ["192.0.2.1", {"address": "192.0.2.2", "send_proxy": "none"}],
                }
            },
        }
    )
    assert [server.send_proxy for server in config.backends["b"].servers] == ["v2", "none"]
