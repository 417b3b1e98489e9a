"""Large files: work grows with the number of lines, not with its square."""

from __future__ import annotations

import cProfile
import pstats
import time

from mailproxy.importers.run import import_texts

SERVERS = 8
LINES_MAX_S = 8.0  # for 20,000 lines; under 2 s on an idle machine, and tests share one with others


def text_of(lines: int) -> str:
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


def calls(lines: int) -> int:
    """Return the number of function calls of an import."""
    text = text_of(lines)
    profile = cProfile.Profile()
    profile.runcall(import_texts, "haproxy", [("haproxy.cfg", text)])
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined, no-any-return]  # the stubs lack it


def test_work_is_linear() -> None:
    assert calls(6_000) < 2.3 * calls(3_000)


def test_twenty_thousand_lines() -> None:
    text = text_of(20_000)
    began = time.process_time()
    result = import_texts("haproxy", [("haproxy.cfg", text)])
    assert time.process_time() - began < LINES_MAX_S
    assert result.text.count("[frontends.") == text.count("\nfrontend ")


def test_thousands_of_blocks_of_nginx() -> None:
    text = (
        "stream {\n"
        + "# a comment\nserver { listen 143; proxy_pass 192.0.2.1:143; }\n".replace("143", "{}") * 0
    )
    text += (
        "".join(
            f"# number {n}\nserver {{ listen 127.0.{n >> 8}.{n & 255}:143; proxy_pass 192.0.2.1:143; }}\n"
            for n in range(2_000)
        )
        + "}\n"
    )
    began = time.process_time()
    import_texts("nginx", [("nginx.conf", text)])
    assert time.process_time() - began < LINES_MAX_S
