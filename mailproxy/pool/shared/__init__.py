"""What several workers share of a pool: counters and tables in shared memory, and the order of waiters.

Modules, in reading order:
    counters: numbers of which each worker writes its own.
    turn_order: which of the waiters of all workers is next.
    count_table: numbers by key, one table for each worker.
"""
