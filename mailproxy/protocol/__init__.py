"""What peers say on the wire, read and written: bytes in, values and bytes out. No loop, no socket, no clock, no log.

A preamble (the PROXY header, the ClientHello) is a function: bytes in, and out comes its value with the number of bytes
that it takes, or ``NeedMore``, or an error that says what is wrong with it.
"""

from mailproxy.protocol.preamble import NeedMore

__all__ = ["NeedMore"]
