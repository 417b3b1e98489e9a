"""The first configuration of the README as a layout: what a newcomer copies, before servers with their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from tests.support.interop.layouts import OFFLOADED_AND_SAID, STARTTLS, Layout

README = Path(__file__).parents[3] / "README.md"


@attrs.frozen
class ReadmeLayout(Layout):
    """The README's blocks instead of a file; Dovecot's becomes the head, which is where `deployed` looks for it."""

    def text(self) -> str:
        page = README.read_text(encoding="utf-8")
        configuration = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]
        dovecot = re.findall(r"^```\n(haproxy_trusted_networks.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]
        head = "".join(f"#   {line}\n" for line in dovecot.splitlines())
        text = f"{head}\n{configuration}"
        for old, new in self.changes.items():
            assert old in text
            text = text.replace(old, new)
        return text


FIRST_CONFIGURATION = ReadmeLayout("README", (STARTTLS, OFFLOADED_AND_SAID))
WITHOUT_TLS_FACTS = ReadmeLayout(
    "README", (OFFLOADED_AND_SAID,), {'send_proxy = "v2-ssl" ': 'send_proxy = "v2" '}, "without-tls-facts"
)
