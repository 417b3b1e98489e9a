"""Execute a command for which no memory can be writable and executable, as MemoryDenyWriteExecute= of systemd does."""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_MDWE = 65
PR_MDWE_REFUSE_EXEC_GAIN = 1
NOT_SUPPORTED = 77

if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:  # before Linux 6.3
    sys.exit(NOT_SUPPORTED)
os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command is a test's
