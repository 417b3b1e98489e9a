"""Which value holds where a key may stand in several places: defaults, profiles, what surrounds, the table itself."""

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


# From weak to strong; each table is written over all that stand above it.
FRONTEND = ("defaults.frontend", "profiles.exchange.frontend", "frontends.imap")
BACKEND = ("defaults.backend", "profiles.exchange.backend", "backends.dovecot")
PROFILED = 'frontends.imap.profile = "exchange"\nbackends.dovecot.profile = "exchange"\n'
TLS_ENDS_HERE = 'frontends.imap.bind = [{ address = "*:993", mode = "tls" }]\n'
PROFILE_EXISTS = "profiles.exchange.frontend.log_null = false\n"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_frontend_over_its_profile_over_the_defaults(count: int) -> None:
    lines = "".join(f"{place}.timeouts.client = {index}\n" for index, place in enumerate(FRONTEND[:count], 1))
    assert frontend(PROFILE_EXISTS + PROFILED + lines).timeouts.client == float(count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_backend_over_its_profile_over_the_defaults(count: int) -> None:
    lines = "".join(f"{place}.timeouts.server = {index}\n" for index, place in enumerate(BACKEND[:count], 1))
    assert backend(PROFILE_EXISTS + PROFILED + lines).timeouts.server == float(count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_bind_over_its_profile_over_the_defaults(count: int) -> None:
    places = ["defaults.bind.backlog = 1", "profiles.exchange.bind.backlog = 2"]
    own = f'frontends.imap.bind = [{{ address = "*:143"{", backlog = 3" if count == 3 else ""} }}]'
    assert bind("\n".join([PROFILE_EXISTS + PROFILED + own, *places[:count]])).backlog == count


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_server_over_its_profile_over_the_defaults(count: int) -> None:
    places = ["defaults.server.weight = 1", "profiles.exchange.server.weight = 2"]
    own = (
        f'backends.dovecot.servers = [{{ address = "192.0.2.1:143"{", weight = 3" if count == 3 else ""} }}]'
    )
    assert server("\n".join([PROFILE_EXISTS + PROFILED + own, *places[:count]])).weight == count


# A server's TLS from weak to strong: at each strength what surrounds it, then the servers' own.
SERVER_TLS = (
    "defaults.backend.tls",
    "defaults.server.tls",
    "profiles.exchange.backend.tls",
    "profiles.exchange.server.tls",
    "backends.dovecot.tls",
)


@pytest.mark.parametrize("count", range(1, 6))
def test_a_servers_tls_comes_from_the_nearest(count: int) -> None:
    lines = "".join(
        f'{place}.server_name = "s{index}"\n' for index, place in enumerate(SERVER_TLS[:count], 1)
    )
    tls = server(PROFILE_EXISTS + PROFILED + lines).tls
    assert tls is not None
    assert tls.server_name == f"s{count}"


def test_a_servers_own_tls_comes_before_all() -> None:
    lines = "".join(f'{place}.server_name = "weak"\n' for place in SERVER_TLS)
    own = 'backends.dovecot.servers = [{ address = "192.0.2.1:993", tls = { server_name = "own" } }]'
    tls = server(PROFILED + lines + own).tls
    assert tls is not None
    assert tls.server_name == "own"


# And what servers take beside tables.


@pytest.mark.parametrize("count", range(1, 6))
def test_a_servers_proxy_header_comes_from_the_nearest(count: int) -> None:
    kinds = ("v1", "v2-ssl", "none", "v2-ssl-cn", "v2")
    places = (place.replace(".tls", ".send_proxy") for place in SERVER_TLS)
    given = list(zip(places, kinds, strict=True))[:count]
    lines = "".join(f'{place} = "{kind}"\n' for place, kind in given)
    assert server(PROFILE_EXISTS + PROFILED + lines).send_proxy == kinds[count - 1]


def test_a_servers_own_extensions_replace_the_backends() -> None:
    lines = """
backends.dovecot.send_proxy = "v2"
backends.dovecot.send_proxy_tlvs = ["authority", "alpn"]
backends.dovecot.forward_tlvs = true
"""
    (one, other) = backend(
        lines
        + 'backends.dovecot.servers = ["192.0.2.1:1", { address = "192.0.2.1:2", send_proxy_tlvs = ["crc32c"], forward_tlvs = false }]'
    ).servers
    assert (one.send_proxy_tlvs, one.forward_tlvs) == (("authority", "alpn"), True)
    assert (other.send_proxy_tlvs, other.forward_tlvs) == (("crc32c",), False)


def test_who_must_send_a_proxy_header_can_be_said_once_for_all_binds() -> None:
    binds = frontend("""
defaults.bind.accept_proxy = ["10.0.0.0/8"]
frontends.imap.bind = [{ address = "*:143" }, { address = "*:993", accept_proxy = [] }]
""").bind
    assert [[str(network) for network in bound.accept_proxy] for bound in binds] == [["10.0.0.0/8"], []]


# The same for the one table that binds take from what surrounds them.
BIND_TLS = (
    "defaults.frontend.tls",
    "defaults.bind.tls",
    "profiles.exchange.frontend.tls",
    "profiles.exchange.bind.tls",
    "frontends.imap.tls",
)


@pytest.mark.parametrize("count", range(1, 6))
def test_a_binds_tls_comes_from_the_nearest(count: int) -> None:
    lines = "".join(f'{place}.ciphers = "c{index}"\n' for index, place in enumerate(BIND_TLS[:count], 1))
    certificates = 'defaults.frontend.tls.certificates = ["/a.pem"]\n'
    tls = bind(PROFILE_EXISTS + PROFILED + TLS_ENDS_HERE + certificates + lines).tls
    assert tls is not None
    assert tls.ciphers == f"c{count}"


def test_tables_merge_key_by_key_down_to_the_server() -> None:
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


def test_time_limits_merge_one_by_one() -> None:
    timeouts = frontend("""
defaults.frontend.timeouts = { handshake = "7s", client = "1m" }
frontends.imap.timeouts = { client = "2m" }
""").timeouts
    assert (timeouts.client, timeouts.handshake, timeouts.half_closed) == (120.0, 7.0, 60.0)


def test_lists_replace() -> None:
    read = frontend(
        TLS_ENDS_HERE
        + """
defaults.frontend.tls.certificates = ["/a.pem", "/b.pem"]
frontends.imap.tls.certificates = ["/c.pem"]
defaults.frontend.tls.alpn = ["imap"]
"""
    )
    assert read.tls is not None
    assert [str(each.certificate) for each in read.tls.certificates] == ["/c.pem"]
    assert read.tls.alpn == ("imap",)


def test_lists_of_tables_replace_and_can_be_inherited_whole() -> None:
    servers = 'defaults.backend.servers = [{ name = "a", address = "192.0.2.1" }, { name = "b", address = "192.0.2.2" }]\n'
    read = mailproxy.from_mapping(
        tomli.loads(
            smallest_toml(servers + 'backends.other.servers = ["192.0.2.9"]\nbackends.heir.port = 143')
        )
    )
    assert [s.name for s in read.backends["other"].servers] == ["192.0.2.9"]
    assert [str(s.address) for s in read.backends["heir"].servers] == ["192.0.2.1:143", "192.0.2.2:143"]


@pytest.mark.parametrize(
    "lines",
    [
        "frontends.imap.bind = [{ address = '*:143', tls = false }]",
        "frontends.imap.tls = false",
        "profiles.exchange.frontend.tls = false",
    ],
)
def test_false_switches_tls_of_a_bind_off(lines: str) -> None:
    assert bind(PROFILE_EXISTS + PROFILED + "defaults.frontend.tls.ciphers = 'c'\n" + lines).tls is None


@pytest.mark.parametrize(
    "lines",
    [
        "backends.dovecot.servers = [{ address = '192.0.2.1', tls = false }]",
        "backends.dovecot.tls = false",
        "profiles.exchange.server.tls = false",
    ],
)
def test_false_switches_tls_of_a_server_off(lines: str) -> None:
    assert server(PROFILE_EXISTS + PROFILED + "defaults.backend.tls.ciphers = 'c'\n" + lines).tls is None


def test_one_server_of_a_tls_backend_may_be_clear() -> None:
    servers = backend("""
backends.dovecot.tls.ca = "/ca.pem"
backends.dovecot.servers = [{ address = "192.0.2.1:993" }, { address = "192.0.2.2:143", tls = false }]
""").servers
    assert [s.tls is not None for s in servers] == [True, False]


def test_what_was_switched_off_can_be_switched_on_again_and_starts_anew() -> None:
    tls = server("""
defaults.backend.tls = { ca = "/weak.pem", ciphers = "weak" }
backends.dovecot.tls = false
backends.dovecot.servers = [{ address = "192.0.2.1", tls = { ciphers = "own" } }]
""").tls
    assert tls is not None
    assert (tls.ciphers, tls.ca) == ("own", None)


# Checks are on unless somebody says otherwise.

OWN = 'backends.dovecot.servers = [{{ address = "192.0.2.1:143", {} }}]'
OFF = ["check = false", 'check = "none"', 'check = { type = "none", rise = 5 }']


def test_a_server_that_nothing_is_said_of_is_checked() -> None:
    check = server("").check
    assert check is not None
    assert (check.type, check.interval, check.fast_interval, check.down_interval) == (None, 10.0, None, None)
    assert (check.rise, check.fall, check.jitter) == (2, 3, 0.2)
    assert (check.port, check.address, check.tls, check.send_proxy, check.timeout, check.steps) == (
        None, None, None, None, None, (),
    )  # fmt: skip


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("place", [place.removesuffix(".tls") for place in SERVER_TLS])
def test_checks_can_be_switched_off_at_every_strength(place: str, off: str) -> None:
    assert server(f"{PROFILE_EXISTS}{PROFILED}{place}.{off}").check is None


def test_a_type_of_none_holds_until_there_is_another() -> None:
    lines = "backends.dovecot.check = { type = 'none', rise = 5 }\n"
    assert server(lines + OWN.format("check.fall = 9")).check is None
    check = server(lines + OWN.format("check = 'tcp'")).check
    assert check is not None
    assert (check.type, check.rise) == ("tcp", 5)


@pytest.mark.parametrize("off", OFF)
def test_one_server_can_go_unchecked(off: str) -> None:
    servers = backend(f"""
backends.dovecot.check = "tcp"
backends.dovecot.servers = [{{ address = "192.0.2.1:143", {off} }}, "192.0.2.2:143"]
""").servers
    assert [s.check and s.check.type for s in servers] == [None, "tcp"]


@pytest.mark.parametrize("on", ["check = {}", 'check = "tcp"', "check.rise = 2"])
def test_one_server_of_an_unchecked_backend_can_be_checked(on: str) -> None:
    check = server(
        f"defaults.backend.check.interval = 7\nbackends.dovecot.check = false\n{OWN.format(on)}"
    ).check
    assert check is not None
    assert check.interval == 10.0  # what was switched off starts anew


@pytest.mark.parametrize("count", range(1, 6))
def test_a_servers_check_comes_from_the_nearest(count: int) -> None:
    lines = "".join(
        f"{place.replace('.tls', '.check')}.fall = {index}\n"
        for index, place in enumerate(SERVER_TLS[:count], 1)
    )
    check = server(PROFILE_EXISTS + PROFILED + lines).check
    assert check is not None
    assert check.fall == count


def test_a_check_reaches_the_servers_and_its_short_form_merges() -> None:
    check = server("""
defaults.backend.check = { type = "imap", interval = "7s", rise = 5 }
backends.dovecot.check = { rise = 4 }
backends.dovecot.servers = [{ address = "192.0.2.1", check = "tcp" }]
""").check
    assert check is not None
    assert (check.type, check.interval, check.rise) == ("tcp", 7.0, 4)


def test_the_short_form_of_a_check_stands_everywhere() -> None:
    for place in (
        "defaults.backend",
        "defaults.server",
        "profiles.exchange.backend",
        "profiles.exchange.server",
    ):
        check = server(f'{PROFILE_EXISTS}{PROFILED}{place}.check = "imap"').check
        assert check is not None
        assert check.type == "imap"


def test_tls_of_a_check_merges_and_a_truth_replaces_it() -> None:
    lines = 'backends.dovecot.check.tls = { ca = "/ca.pem" }\n'
    merged = server(lines + OWN.format('check.tls.verify = "chain"')).check
    replaced = server(lines + OWN.format("check.tls = true")).check
    assert merged is not None
    assert isinstance(merged.tls, ServerTls)
    assert (str(merged.tls.ca), merged.tls.verify) == ("/ca.pem", "chain")
    assert replaced is not None
    assert replaced.tls is True


def test_a_script_replaces_another() -> None:
    check = server(
        'backends.dovecot.check = { type = "script", steps = [{ expect = "a" }, { send = "b" }] }\n'
        + OWN.format('check.steps = [{ expect_hex = "2A", not = true }]')
    ).check
    assert check is not None
    assert [(step.expect_hex, step.not_) for step in check.steps] == [("2A", True)]


def test_a_server_sticks_as_its_backend_does_or_stays_out() -> None:
    servers = backend("""
backends.dovecot.stick = { size = "1k", expire = "5m" }
backends.dovecot.servers = ["192.0.2.1:143", { address = "192.0.2.2:143", stick = false }]
""").servers
    assert [s.stick and (s.stick.size, s.stick.expire, s.stick.prefix_v6) for s in servers] == [
        (1024, 300.0, 64),
        None,
    ]


def test_an_inherited_stick_table_can_be_switched_off() -> None:
    read = backend("defaults.backend.stick = {}\nbackends.dovecot.stick = false")
    assert (read.stick, read.servers[0].stick) == (None, None)


def test_rate_limit_of_clients_is_merged_and_switched_off() -> None:
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
    read = frontend("")
    assert (read.max_sessions_per_client, read.max_session_rate_per_client) == (0, None)
    assert not read.limits_clients
    assert frontend("frontends.imap.max_sessions_per_client = 1").limits_clients


def test_rate_limit_of_clients_is_in_a_minute_by_default() -> None:
    rate = frontend("frontends.imap.max_session_rate_per_client = { count = 30 }").max_session_rate_per_client
    assert rate is not None
    assert rate.per == 60.0


def test_servers_take_from_their_backend_what_failures_mean() -> None:
    servers = backend("""
defaults.backend.on_marked_down = "shutdown-sessions"
backends.dovecot.observe = "connect"
backends.dovecot.error_clients = 2
backends.dovecot.servers = ["192.0.2.1:143", { address = "192.0.2.2:143", observe = "none", error_limit = 3, on_marked_down = "none" }]
""").servers
    assert [(s.on_marked_down, s.observe, s.error_limit, s.error_clients) for s in servers] == [
        ("shutdown-sessions", "connect", 10, 2),
        ("none", "none", 3, 2),
    ]


def test_a_profile_can_be_everybodys() -> None:
    assert (
        frontend(
            'defaults.frontend.profile = "slow"\nprofiles.slow.frontend.timeouts.client = 77'
        ).timeouts.client
        == 77.0
    )


def test_an_own_profile_replaces_everybodys() -> None:
    timeouts = frontend("""
defaults.frontend.profile = "slow"
frontends.imap.profile = "fast"
profiles.slow.frontend.timeouts = { client = 77, handshake = 7 }
profiles.fast.frontend.timeouts = { client = 66 }
""").timeouts
    assert (timeouts.client, timeouts.handshake) == (66.0, 10.0)


def test_a_profile_is_for_those_who_take_it() -> None:
    assert frontend('profiles.slow.frontend.timeouts.client = 77\nfrontends.imap.protocol = "imap"').timeouts.client == 31 * MINUTE_S  # fmt: skip


def test_a_profiles_layers_are_each_for_their_own_kind() -> None:
    read = smallest_config("""
frontends.imap.profile = "exchange"
profiles.exchange.frontend.timeouts.client = 600
profiles.exchange.bind.backlog = 10000
profiles.exchange.backend.timeouts.server = 600
profiles.exchange.server.weight = 9
""")
    assert read.frontends["imap"].timeouts.client == 600.0
    assert read.frontends["imap"].bind[0].backlog == 10_000
    assert read.backends["dovecot"].timeouts.server == 31 * MINUTE_S
    assert read.backends["dovecot"].servers[0].weight == 1


def test_two_frontends_do_not_share_what_they_inherit() -> None:
    read = smallest_config(
        TLS_ENDS_HERE
        + """
defaults.frontend.tls.certificates = ["/a.pem"]
frontends.imap.tls.ciphers = "one"
frontends.other.bind = [{ address = "*:2" }]
"""
    )
    tls = [read.frontends[name].tls for name in ("imap", "other")]
    assert [t.ciphers for t in tls if t] == ["one", None]


# Defaults that are worked out.

PROTOCOLS = {"imap": 31, "tcp": 31, "pop3": 10, "submission": 10, "smtp": 10, "lmtp": 10, "sieve": 10}


@pytest.mark.parametrize(("protocol", "minutes"), PROTOCOLS.items())
def test_silence_that_is_allowed_comes_with_the_protocol(protocol: str, minutes: int) -> None:
    read = smallest_config(f'frontends.imap.protocol = "{protocol}"')
    assert read.frontends["imap"].timeouts.client == minutes * MINUTE_S
    assert read.backends["dovecot"].timeouts.server == minutes * MINUTE_S


def test_a_frontend_speaks_tcp_and_has_the_documented_limits() -> None:
    read = frontend("")
    assert read.protocol == "tcp"
    limits = read.timeouts
    assert (limits.client, limits.proxy_header, limits.handshake, limits.negotiation, limits.half_closed) == (
        31 * MINUTE_S, 3.0, 10.0, 180.0, 60.0,
    )  # fmt: skip


def test_a_backend_has_the_documented_defaults() -> None:
    read = backend("")
    assert (read.timeouts.connect, read.timeouts.queue, read.timeouts.check) == (5.0, 60.0, 5.0)
    assert (read.balance, read.resolve_interval, read.port, read.tls) == ("leastconn", 30.0, None, None)
    assert (read.retries, read.redispatch, read.max_queue, read.stick) == (3, True, 0, None)
    assert (read.on_marked_down, read.observe, read.error_limit, read.error_clients) == (
        "none",
        "none",
        10,
        1,
    )
    assert (read.send_proxy, read.send_proxy_tlvs, read.forward_tlvs) == (None, (), False)


def test_a_server_has_the_documented_defaults() -> None:
    read = server("")
    assert (read.weight, read.max_sessions, read.slow_start, read.backup) == (1, 0, 0.0, False)


def test_a_stick_table_has_the_documented_defaults() -> None:
    stick = backend("backends.dovecot.stick = {}").stick
    assert stick is not None
    assert (stick.on, stick.size, stick.expire, stick.prefix_v4, stick.prefix_v6) == (
        "source", 204_800, 1800.0, 32, 64,
    )  # fmt: skip


def test_a_bind_takes_no_proxy_header_and_a_frontend_has_no_routes() -> None:
    assert (bind("").accept_proxy, bind("").proxy_optional) == ((), False)
    assert frontend("").routes == ()


def test_what_is_asked_of_clients_tls_is_nothing() -> None:
    tls = bind(TLS_ENDS_HERE + 'frontends.imap.tls.certificates = ["/a.pem"]').tls
    assert tls is not None
    assert (tls.client_verify, tls.client_ca, tls.client_crl, tls.strict_sni) == ("none", None, None, False)


def test_server_names_are_in_lower_case() -> None:
    (route,) = frontend("""
frontends.imap.bind = [{ address = "*:993", mode = "passthrough" }]
frontends.imap.routes = [{ sni = ["IMAP.Example.com", "*.Example.ORG"], backend = "dovecot" }]
""").routes
    assert route.sni == ("imap.example.com", "*.example.org")


def test_a_frontend_leads_to_its_backend_and_its_routes() -> None:
    read = frontend("""
frontends.imap.routes = [{ port = [1], backend = "b" }, { port = [2], reject = true }, { port = [3], backend = "dovecot" }, { port = [4], backend = "b" }]
backends.b.servers = ["192.0.2.2:143"]
""")
    assert read.backend_names == ("dovecot", "b")


def test_the_process_and_the_log_have_the_documented_defaults() -> None:
    read = smallest_config("")
    assert (read.process.workers, read.process.max_sessions, read.process.drain_timeout) == (1, None, 30.0)
    assert (read.process.user, read.process.group, read.process.certificate_interval) == (None, None, 10.0)
    assert (read.log.level, read.log.format, str(read.log.to)) == ("info", "text", "stderr")


def test_the_protocol_in_the_defaults_counts_too() -> None:
    assert frontend('defaults.frontend.protocol = "pop3"').timeouts.client == 10 * MINUTE_S


def test_a_backend_speaks_what_its_frontends_speak() -> None:
    lines = 'frontends.imap.protocol = "pop3"\nfrontends.two = { protocol = "pop3", backend = "dovecot", bind = [{ address = "*:2" }] }'
    assert backend(lines).protocol == "pop3"


def test_a_backends_own_protocol_needs_no_agreement() -> None:
    lines = 'frontends.two = { protocol = "pop3", backend = "dovecot", bind = [{ address = "*:2" }] }\nbackends.dovecot.protocol = "imap"'
    read = backend(lines)
    assert (read.protocol, read.timeouts.server) == ("imap", 31 * MINUTE_S)


def test_a_backend_that_nobody_leads_to_speaks_tcp() -> None:
    assert smallest_config('backends.spare.servers = ["192.0.2.9"]').backends["spare"].protocol == "tcp"


def test_a_frontend_without_a_backend_is_fine() -> None:
    read = mailproxy.from_mapping({"frontends": {"closed": {"bind": [{"address": "127.0.0.1:0"}]}}})
    assert read.frontends["closed"].backend is None
    assert read.backends == {}


def test_ports_of_servers() -> None:
    servers = backend("""
backends.dovecot.port = 143
backends.dovecot.servers = ["192.0.2.1", "192.0.2.2:993", "[2001:db8::1]", "imap.internal", "unix:/run/imap.sock"]
""").servers
    assert [str(s.address) for s in servers] == [
        "192.0.2.1:143",
        "192.0.2.2:993",
        "[2001:db8::1]:143",
        "imap.internal:143",
        "unix:/run/imap.sock",
    ]


def test_without_a_port_anywhere_it_is_the_one_that_the_client_connected_to() -> None:
    assert str(server('backends.dovecot.servers = ["192.0.2.1"]').address) == "192.0.2.1"


def test_a_name_comes_from_the_address_as_written_and_not_from_the_backends_port() -> None:
    read = server('backends.dovecot.port = 143\nbackends.dovecot.servers = ["192.0.2.1"]')
    assert (read.name, str(read.address)) == ("192.0.2.1", "192.0.2.1:143")


def test_a_server_may_go_without_the_header_that_its_backend_embellishes() -> None:
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
