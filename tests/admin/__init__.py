"""Tests of the admin socket: the dialect, the sockets, one process."""
