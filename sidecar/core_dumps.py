"""Prevents core dumps: the memory of the process holds keys, secrets and tokens."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4
"""prctl(2). Also keeps other processes of the same user from reading the memory (ptrace(2), proc(5))."""


def disable_core_dumps() -> None:
    """Forbid them for this process and those that it starts. Call again in a new process: it starts dumpable."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
