"""Several processes that serve as one.

Modules, in reading order:
    supervisor: the process that was started. It forks the others and replaces them.
    child: what the forked processes set up first.
    control: health checks, signals and certificates for all workers; worker_handle is its side of one worker.
    worker: a process that serves; backend has its servers' counts in common with the others.
    scoreboard: which shared counter is where. heartbeat, watchdog: how a hung process is noticed.
    stick_sync: entries of stick tables passed on.
"""
