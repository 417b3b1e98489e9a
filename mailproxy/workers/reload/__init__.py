"""A reload of the configuration in several processes.

Modules, in reading order:
    messages, document: what the processes send each other for it.
    layout: which columns of the shared memory belong to what, over all reloads.
    leader: the control process, which checks a configuration and has the others use it.
    commit: the supervisor, which opens sockets and decides.
    follower: a worker, which applies it.

The order of steps is in docs/architecture.md, "Reload with several workers".
"""
