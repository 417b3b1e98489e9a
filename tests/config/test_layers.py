"""Merged tables: their values, and the origin of each value."""

from __future__ import annotations

import pytest

from mailproxy.config.layers import Layer, MergedTable, merge
from mailproxy.config.path import ROOT_PATH

DEFAULTS, PROFILE, OWN = (
    ROOT_PATH / "defaults" / "server", ROOT_PATH / "profiles" / "p" / "server", ROOT_PATH / "backends" / "b" / "servers" / 0,
)  # fmt: skip


@pytest.fixture
def merged() -> MergedTable:
    return merge(
        [
            Layer(DEFAULTS, {"weight": 1, "tls": {"ca": "a.pem", "key": "a.key"}, "check": {"rise": 3}}),
            Layer(PROFILE, {"tls": {"ca": "b.pem"}, "check": False}),
            Layer(OWN, {"address": "192.0.2.1", "check": {"fall": 4}}),
        ]
    )


def test_tables_merge_and_false_replaces(merged: MergedTable) -> None:
    assert merged.values == {
        "weight": 1,
        "tls": {"ca": "b.pem", "key": "a.key"},
        "check": {"fall": 4},
        "address": "192.0.2.1",
    }


def test_merge_does_not_change_layers(merged: MergedTable) -> None:
    assert merged.layers[0].table["tls"] == {"ca": "a.pem", "key": "a.key"}


def test_each_value_has_its_origin(merged: MergedTable) -> None:
    assert merged.origin("weight") == DEFAULTS
    assert merged.origin("tls") == merged.origin("tls", "ca") == PROFILE
    assert merged.origin("tls", "key") == DEFAULTS
    assert merged.path_of("check", "fall") == OWN / "check" / "fall"


def test_unset_value_originates_in_own_table(merged: MergedTable) -> None:
    assert merged.origin("backup") == merged.origin("check", "rise") == OWN


def test_stronger_layer_overrides(merged: MergedTable) -> None:
    assert merged.is_overridden(("weight",), by=("check", "fall"))
    assert not merged.is_overridden(("check", "fall"), by=("weight",))
    assert not merged.is_overridden(("weight",), by=("backup",))
