"""Tests of the pool, which makes decisions over plain values."""
