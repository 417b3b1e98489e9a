"""Whole programs against each other: mailproxy between real mail clients, HAProxy and real Dovecot."""

import pytest

# these assert on behalf of the tests: what they compared is to be seen
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("clients", "dovecot", "ends", "pool_story", "programs"))
)
