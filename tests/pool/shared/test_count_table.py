"""The hash table that one process writes and others read: a dict of fixed size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import CountTable, client_hash, words_for

KEYS = st.one_of(st.integers(1, 2**64 - 1), st.integers(1, 40))  # the latter share buckets
VALUES = st.integers(1, 2**64 - 1)


def memory(words: int) -> memoryview[int]:
    return memoryview(bytearray(8 * words)).cast("Q")


@given(st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=200))
def test_table_is_a_dict_with_limited_room(steps: list[tuple[int, int | None]]) -> None:
    words = memory(words_for(1))
    table, reader = CountTable(words), CountTable(words)
    model: dict[int, int] = {}
    for key, value in steps:
        if value is None:
            table.delete(key)
            model.pop(key, None)
        elif table.put(key, value):
            model[key] = value
        else:
            assert key not in model, "a present key keeps its cell"
    for key in {key for key, _ in steps}:
        assert reader.get(key) == model.get(key, 0)


@pytest.mark.parametrize("keys", [1, 8, 9, 100, 65_536])
def test_table_of_any_size_has_twice_the_cells(keys: int) -> None:
    words = words_for(keys)
    assert words // 2 >= 2 * keys
    CountTable(memory(words))


@pytest.mark.parametrize("words", [0, 8, 24, 48, 100])
def test_memory_of_another_size_is_refused(words: int) -> None:
    with pytest.raises(ValueError, match="words"):
        CountTable(memory(words))


def test_half_full_table_accepts_every_key() -> None:
    keys = 8192
    table = CountTable(memory(words_for(keys)))
    values = {client_hash(number, b"half"): number for number in range(1, keys + 1)}
    assert all(table.put(key, value) for key, value in values.items())
    assert all(table.get(key) == value for key, value in values.items())


def test_table_reuses_freed_cells() -> None:
    """Freed cells are used again. An old table has as much room as a new one."""
    keys = 1024
    table = CountTable(memory(words_for(keys)))
    present: list[int] = []
    for number in range(40 * keys):
        if len(present) == keys:
            index = client_hash(number, b"index") % keys
            present[index], present[-1] = present[-1], present[index]
            table.delete(present.pop())
        key = client_hash(number, b"key")
        assert table.put(key, 1)
        present.append(key)


def test_replaced_entry_reads_as_zero() -> None:
    """A reader that finds its key just before another key takes the cell reads nothing."""
    words = memory(words_for(1))
    table = CountTable(words)
    assert table.put(1, 7)

    class Reader(CountTable):
        def _find(self, key: int) -> int:
            index = super()._find(key)
            table.delete(1)
            assert table.put(33, 9)  # the same buckets
            return index

    assert Reader(words).get(1) == 0
    assert table.get(33) == 9
