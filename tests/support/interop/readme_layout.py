"""The first configuration of the README as a layout: what a newcomer copies, before servers with their defaults."""

from __future__ import annotations

import attrs

from tests.support.interop.layouts import OFFLOADED_AND_SAID, STARTTLS, Layout
from tests.support.pages import blocks


@attrs.frozen
class ReadmeLayout(Layout):
    """The README's blocks instead of a file; Dovecot's becomes the head, which is where `deployed` looks for it."""

    def text(self) -> str:
        (configuration,) = (block.text for block in blocks("README.md", "toml"))
        (dovecot,) = (block.text for block in blocks("README.md", "dovecot"))
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
