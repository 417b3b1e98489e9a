"""The control process.

Modules, in reading order:
    control: the process itself, and which message it handles how.
    registry: the connected workers; worker_handle is one of them, with the acknowledgements that are missing.
    slot: what the supervisor gives it.
    boards: what all processes have counted. feed: what all of them log.
    publisher: sends changes of servers to the workers, then logs them.
    signal_handler: what happens at the signals of an operator.
    reloads: has all processes reload TLS files.
"""
