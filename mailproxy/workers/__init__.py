"""Several processes that serve as one.

The supervisor forks one control process and N workers. Workers serve sessions, each in its own trio loop. The
control process checks the servers for all of them, acts on signals and logs what concerns all processes.

Modules, in reading order:
    messages: what the processes send each other. The table at its head is the map of this package.
    scoreboard: which counter is where in the shared memory.

    supervisor: the process that was started. It forks the others and replaces them.
    outbox, shutdown, watchdog: its messages to the control process, its plan to end the workers, its check of
    heartbeats.
    child: what a forked process sets up first. heartbeat: how it shows that its loop turns.

    control: the control process, a package.

    worker: builds and runs a worker.
    control_client: its channel to the control process.
    limits: limits on sessions of all workers together.

    backend: a backend with shared counters, in a worker and in the control process.
    counters, stick_sync: how counters and stick tables are kept in step.
    certificates: reload of TLS files in a worker.
"""
