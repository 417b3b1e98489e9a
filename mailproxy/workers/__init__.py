"""Several processes that serve as one.

The supervisor forks one control process and N workers. Workers serve sessions, each in its own trio loop. The
control process checks the servers for all of them, acts on signals and logs what concerns all processes.

Modules, in reading order:
    messages: what the processes send each other. The table at its head is the map of this package.
    scoreboard: which counter is where in the shared memory.

    supervisor: the process that was started. It forks the others and replaces them.
    supervision: what it knows of them, a package: starts and exits, heartbeats, its messages to the control
        process, its plan to end the workers.
    setup: what it has opened and loaded. child: what a forked process sets up first. heartbeat: how it shows that
        its loop turns.
    reload: another configuration in all processes, a package.

    control: the control process, a package.

    worker: builds and runs a worker. parts: its backends and limits.
    control_client: its channel to the control process.
    limits: limits on sessions of all workers together.

    backend: a backend with shared counters, in a worker and in the control process.
    counters, stick: how counters and stick tables are kept in step.
    certificates: reload of TLS files in a worker.
"""
