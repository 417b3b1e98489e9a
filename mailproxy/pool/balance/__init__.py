"""The methods that choose a server for a session, one class for each value of ``balance``.

Modules, in reading order:
    base: what all methods have in common; ``leastconn`` and ``first``, which look through the servers.
    roundrobin: each server in turn, by weight.
    random: the better of two servers drawn by weight.
    source: the same server for the same client.
"""
