"""The first configuration of the README as a layout, in front of servers with their default settings."""

from __future__ import annotations

import attrs

from tests.support.interop.layouts import OFFLOADED_REPORTED, STARTTLS, Layout
from tests.support.pages import blocks


@attrs.frozen
class ReadmeLayout(Layout):
    """A layout from the README's blocks. Dovecot's block becomes the comment at the top, where `run_layout` reads it."""

    def text(self) -> str:
        (configuration,) = (block.text for block in blocks("README.md", "toml"))
        (dovecot,) = (block.text for block in blocks("README.md", "dovecot"))
        head = "".join(f"#   {line}\n" for line in dovecot.splitlines())
        text = f"{head}\n{configuration}"
        for old, new in self.changes.items():
            assert old in text
            text = text.replace(old, new)
        return text


FIRST_CONFIGURATION = ReadmeLayout("README", (STARTTLS, OFFLOADED_REPORTED))
WITHOUT_TLS_FACTS = ReadmeLayout(
    "README", (OFFLOADED_REPORTED,), {'send_proxy = "v2-ssl" ': 'send_proxy = "v2" '}, "without-tls-facts"
)
