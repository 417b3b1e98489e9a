"""Values too long for a packet: they go as JSON in an anonymous file, whose descriptor comes with a message."""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO


def write_value(value: object) -> BinaryIO:
    """Return an anonymous file with a value that JSON can express. The caller closes it."""
    file = open(os.memfd_create("mailproxy message"), "w+b", buffering=0)  # noqa: SIM115, PTH123 - the caller closes it
    try:
        data = memoryview(json.dumps(value).encode())
        while data:
            data = data[file.write(data) :]
    except BaseException:
        file.close()
        raise
    return file


def read_value(file: BinaryIO) -> Any:
    """Return the value in a file. Several processes may read the same file, whose offset they share.

    Raises:
        ValueError: It is no JSON.
        OSError: It cannot be read.
    """
    parts, size = [], 0
    while part := os.pread(file.fileno(), 1 << 20, size):
        parts.append(part)
        size += len(part)
    return json.loads(b"".join(parts))
