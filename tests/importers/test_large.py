"""Large files: work grows with the number of lines, not with its square."""

from __future__ import annotations

import cProfile
import gc
import pstats
from collections.abc import Callable
from contextlib import suppress

import pytest

from mailproxy.errors import ConfigError
from mailproxy.importers.names import unused_name
from mailproxy.importers.run import import_texts

SERVERS = 8


def haproxy_text(lines: int) -> str:
    written = [
        "defaults",
        "  mode tcp",
        "  timeout client 31m",
        "  timeout server 31m",
        "  timeout connect 5s",
    ]
    number = 0
    while len(written) < lines:
        number += 1
        written += [
            f"frontend f{number}", f"  bind 10.{number >> 8 & 255}.{number & 255}.1:143", "  option tcplog", f"  default_backend b{number}",
            f"backend b{number}", "  option tcp-check", r"  tcp-check expect rstring ^\*\ OK",
            *(f"  server s{index} 10.9.{number & 255}.{index}:143 check inter 3s send-proxy" for index in range(SERVERS)),
        ]  # fmt: skip
    return "\n".join(written) + "\n"


def nginx_text(lines: int) -> str:
    block = "# number {0}\nserver {{ listen 127.0.{1}:143; proxy_pass 192.0.2.1:143; }}\n"
    return f"stream {{\n{''.join(block.format(n, address(n)) for n in range(lines // 2))}}}\n"


def caddy_text(lines: int) -> str:
    block = "127.0.{1}:993 {{\nroute {{\nproxy 192.0.2.1:1{0}\n}}\n}}\n"
    return f"{{\nlayer4 {{\n{''.join(block.format(n, address(n)) for n in range(lines // 5))}}}\n}}\n"


def traefik_text(lines: int) -> str:
    numbers = range(lines // 9)
    points = "".join(f'[entryPoints.p{n}]\naddress = "127.0.{address(n)}:993"\n' for n in numbers)
    routers = "".join(
        f'[tcp.routers.r{n}]\nrule = "HostSNI(`*`)"\nservice = "s{n}"\nentryPoints = ["p{n}"]\n'
        for n in numbers
    )
    servers = '[[tcp.services.s{0}.loadBalancer.servers]]\naddress = "192.0.2.1:1{0}"\n'
    return points + routers + "".join(servers.format(n) for n in numbers)


def address(number: int) -> str:
    return f"{number >> 8}.{number & 255}"


TEXTS: dict[str, Callable[[int], str]] = {
    "haproxy": haproxy_text,
    "nginx": nginx_text,
    "caddy": caddy_text,
    "traefik": traefik_text,
}


def both_families(count: int) -> str:
    listens = "".join(f"listen {port};\nlisten [::]:{port};\n" for port in range(1, count + 1))
    return f"stream {{ server {{ proxy_pass 192.0.2.1:143;\n{listens}}} }}\n"


def access_logs(count: int) -> str:
    block = "server {{ listen 127.0.{1}:143; proxy_pass 192.0.2.1:143; access_log /var/log/{0}; }}\n"
    return f"stream {{\n{''.join(block.format(n, address(n)) for n in range(count))}}}\n"


def server_names(count: int) -> str:
    block = "server {{ listen 993 ssl; ssl_certificate /{0}; server_name m{0}.example.org; proxy_pass 10.0.{1}:143; }}\n"
    return f"stream {{\n{''.join(block.format(n, address(n)) for n in range(count))}}}\n"


def one_upstream(count: int) -> str:
    servers = "".join(f"server 10.0.{address(n)}:143 max_fails=3;\n" for n in range(count))
    return f"stream {{ upstream u {{\n{servers}}}\nserver {{ listen 143; proxy_pass u; }} }}\n"


def one_map(count: int) -> str:
    choices = "".join(f"m{n}.example.org 10.0.{address(n)}:993;\n" for n in range(count))
    return f"stream {{ map $ssl_preread_server_name $to {{\n{choices}}}\nserver {{ listen 993; ssl_preread on; proxy_pass $to; }} }}\n"


def log_targets(count: int) -> str:
    return "global\n" + "".join(f"  log 10.0.{address(n)} local0\n" for n in range(count))


def one_backend(count: int) -> str:
    servers = "".join(f"  server s{n} 10.0.{address(n)}:143 check\n" for n in range(count))
    return f"listen imap\n  bind :143\n  mode tcp\n{servers}"


def one_frontend(count: int) -> str:
    routes = "".join(f"  use_backend b if {{ req.ssl_sni m{n}.example.org }}\n" for n in range(count))
    return f"frontend f\n  bind :993\n  mode tcp\n{routes}backend b\n  mode tcp\n  server s 192.0.2.1:993\n"


# Much of one kind at one place, where it is easy to compare each with each.
SHAPES: dict[str, tuple[str, Callable[[int], str]]] = {
    "nginx, binds of both families": ("nginx", both_families),
    "nginx, access logs": ("nginx", access_logs),
    "nginx, server names at one address": ("nginx", server_names),
    "nginx, servers of one upstream": ("nginx", one_upstream),
    "nginx, entries of one map": ("nginx", one_map),
    "HAProxy, log targets": ("haproxy", log_targets),
    "HAProxy, servers of one backend": ("haproxy", one_backend),
    "HAProxy, routes of one frontend": ("haproxy", one_frontend),
}


def file_name(program: str) -> str:
    return "traefik.toml" if program == "traefik" else program


def calls(program: str, text: str) -> int:
    """Return the number of function calls of an import."""
    profile = cProfile.Profile()
    profile.runcall(import_texts, program, [(file_name(program), text)])
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined, no-any-return]  # the stubs lack it


@pytest.mark.slow
@pytest.mark.parametrize("program", TEXTS)
def test_work_is_linear(program: str) -> None:
    """Both files are so large that what is written is not loaded, which takes most of the time of small ones."""
    text = TEXTS[program]
    assert calls(program, text(8_000)) < 2.3 * calls(program, text(4_000))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_linear_in_one_place(shape: str) -> None:
    program, text = SHAPES[shape]
    assert calls(program, text(3_000)) < 2.3 * calls(program, text(1_500))


@pytest.mark.slow
@pytest.mark.parametrize("program", TEXTS)
def test_twenty_thousand_lines(program: str) -> None:
    text = TEXTS[program](20_000)
    result = import_texts(program, [(file_name(program), text)])
    frontends = {"haproxy": "\nfrontend ", "nginx": "listen", "caddy": ":993", "traefik": ":993"}[program]
    assert result.text.count("[frontends.") == text.count(frontends)


@pytest.mark.parametrize("text", ["events {}\n", "events {\n"])
def test_collection_of_cycles_is_resumed(text: str) -> None:
    """It is suspended during an import, also during one that fails."""
    with suppress(ConfigError):
        import_texts("nginx", [("nginx.conf", text)])
    assert gc.isenabled()


class Names(set[str]):
    """Names that count how often one of them was looked up."""

    asked = 0

    def __contains__(self, name: object) -> bool:
        self.asked += 1
        return super().__contains__(name)


def test_unused_name_is_found_with_few_questions() -> None:
    names = Names()
    for number in range(3_000):
        before = names.asked
        name = unused_name("imap", names)
        assert name == ("imap" if number == 0 else f"imap-{number + 1}")
        assert names.asked - before <= 30
        names.add(name)


def test_unused_name_where_numbers_are_missing() -> None:
    assert unused_name("a", {"a", "a-2", "a-4"}) not in ("a", "a-2", "a-4")
    assert unused_name("a", {"a", "a-3"}) == "a-2"
