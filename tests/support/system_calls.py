"""A program that runs another one under a unit's system call filter, by the library that systemd itself uses.

    python tests/support/system_calls.py FILTER.json PROGRAM ARGUMENT…

A unit needs systemd as process 1, a filter needs only Linux. What is not allowed kills here, so that no call that fails
goes unseen; what MemoryDenyWriteExecute= and RestrictAddressFamilies= forbid fails as it does under systemd.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import sys
from pathlib import Path

LIBRARY = ctypes.util.find_library("seccomp") if sys.platform == "linux" else None
MISSING = "there is no libseccomp on this machine (the package `libseccomp2` of Debian has it)"

_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_EQUAL, _MASKED_EQUAL = 4, 7
_WRITE, _EXECUTE = 2, 4
_FAMILIES = range(64)
_EXECUTABLE_CALLS = ("mprotect", "pkey_mprotect")


class _Comparison(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class _Filter:
    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def rule(self, action: int, call: str, *comparisons: _Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number == -1:  # newer than the library, so systemd cannot name it either
            return
        array = (_Comparison * len(comparisons))(*comparisons)
        result = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        # Some calls do not exist on this architecture.
        if result not in (0, -errno.EDOM, -errno.EINVAL):
            raise OSError(-result, os.strerror(-result), call)

    def load(self) -> None:
        if result := self._library.seccomp_load(self._context):
            raise OSError(-result, os.strerror(-result))


def _forbid_memory_and_families(families: list[int]) -> None:
    denied = _Filter(_ALLOW)
    both = _WRITE | _EXECUTE
    denied.rule(_FAIL | errno.EPERM, "mmap", _Comparison(2, _MASKED_EQUAL, both, both))
    for call in _EXECUTABLE_CALLS:
        denied.rule(_FAIL | errno.EPERM, call, _Comparison(2, _MASKED_EQUAL, _EXECUTE, _EXECUTE))
    for family in set(_FAMILIES) - set(families):
        denied.rule(_FAIL | errno.EAFNOSUPPORT, "socket", _Comparison(0, _EQUAL, family, 0))
    denied.load()


def main() -> None:
    """Load the filters, which nothing can take off again, and become the program."""
    wanted = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _forbid_memory_and_families(wanted["families"])
    allowed = _Filter(_KILL)
    for call in wanted["calls"]:
        allowed.rule(_ALLOW, call)
    allowed.load()
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
