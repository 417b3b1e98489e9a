"""Reload of the configuration in place: everything that can fail is done before anything changes.

Modules, in reading order:
    result: what a reload comes to: the lines of its answer, its line in the log, the last one for ``show reload``.
    preparation: the steps before anything changes: TLS files, checks of this machine, log, host names.
    apply: the last step, in one process or one worker.
    single: the reload of a single process.

`mailproxy.workers.reload` has the reload of several processes, which uses the first three.
"""
