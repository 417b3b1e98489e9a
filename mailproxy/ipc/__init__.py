"""Between the processes of one proxy.

Modules:
    channel: messages over a socket pair, some with descriptors.
    shared_memory: counters that every process reads.
    wakeups: an eventfd for each worker.

What the messages and counters mean is up to `mailproxy.workers`.
"""
