"""The pool where several workers share their counts: counters in shared memory, and the queue over all workers."""
