"""Small disks that can be filled: a file system in memory, which only root may mount."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHUNK = 64 * 1024


class SmallDisk:
    """A disk with a file that takes whatever room is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take all the room there is."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (CHUNK, 1024, 1):
                try:
                    while ballast.write(b"\0" * size):
                        pass
                except OSError:
                    continue
        assert os.statvfs(self.folder).f_bavail == 0

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """Mount one; where that is not allowed, the test is skipped."""
    with tempfile.TemporaryDirectory(prefix="lapse-disk-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # a server runs as another user
        mounted = _call("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", name)
        if mounted.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
        try:
            yield SmallDisk(Path(name))
        finally:
            unmounted = _call("umount", "--lazy", name)
            assert unmounted.returncode == 0, unmounted.stderr


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Show a folder a second time, where nothing can be written; where that is not allowed, the test is skipped."""
    with tempfile.TemporaryDirectory(prefix="lapse-read-only-") as name:
        for options in ("bind", "remount,ro,bind"):
            mounted = _call("mount", "-o", options, str(folder), name)
            if mounted.returncode:
                pytest.skip(f"a folder cannot be mounted read-only here: {mounted.stderr.strip()}")
        try:
            yield Path(name)
        finally:
            assert _call("umount", "--lazy", name).returncode == 0


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
