"""Metrics for Prometheus, from the figures that ``show stat`` and ``show info`` have.

Modules, in reading order:
    names: every metric: name, type, meaning and labels. The documentation is made from it.
    rows: the values of frontends, binds, backends, servers and stick tables, under HAProxy's names.
    own: the values that HAProxy has not.
    exposition: both as text.
"""
