"""What is counted, as numbers in named blocks: cheap to write, and summed over processes by the reader.

Modules, in reading order:
    board: named blocks of whole numbers, which one process writes.
    histogram: fixed bounds, and how a value is counted between them.
    traffic: what sessions have come to, as values for readers.
    ends: what each end reason counts as.
    recent: the last sessions that have ended.
    sessions: counts each session when it begins and when it ends.
    servers: what has happened at servers.
    process: how processes are doing.
    maxima: lets the highest values begin again.
    figures: the sums over the boards of all processes.

Nothing is imported here: the pool uses `servers`, and must load without the log.
"""
