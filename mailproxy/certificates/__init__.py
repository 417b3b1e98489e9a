"""TLS files on disk: loaded, scanned for changes, and taken into use again without a restart.

Modules, in reading order:
    store: the certificates, keys, CAs and revocation lists of a configuration, and the contexts made of them.
    reloader: one scan of these files for changes.
    watcher: the task that scans at every interval and logs the result.
"""
