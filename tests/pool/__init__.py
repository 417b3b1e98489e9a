"""The pool: decisions over plain values."""
