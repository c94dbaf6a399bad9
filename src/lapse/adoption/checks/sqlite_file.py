"""Check a SQLite file: that it exists, is an intact database, can be written, and is on a local file system."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from lapse.addresses import mask_addresses
from lapse.adoption.checks.sqlite_schema import File
from lapse.adoption.findings import Finding, error, warning

CORRUPT = "corrupt"
_FAULTS = 5
_HEADER_BYTES = 100
_IS_WAL = 2
"""The value of bytes 18 and 19 of a file with a write-ahead log."""
NETWORKED = frozenset(
    (
        *("afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs"),
        *("lustre", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"),
    )
)
_MOUNTS = Path("/proc/self/mountinfo")


def check_place(path: Path) -> Iterator[Finding]:
    """Yield why the file cannot be opened: it does not exist, or cannot be read."""
    if not path.parent.is_dir():
        yield error(
            "empty",
            f"There is no directory {path.parent}.",
            f"mkdir -p {shlex.quote(str(path.parent))}; then `lapse migrate`; or check DATABASE_URL.",
        )
    elif not os.access(path.parent, os.X_OK) or (path.exists() and not os.access(path, os.R_OK)):
        yield error("missing-privilege", f"This user cannot read {path}.", _allow(path, "r"))
    elif not path.exists():
        yield error(
            "empty",
            f"There is no file {path}.",
            "`lapse migrate` creates it, and so does a worker; if it should exist, check DATABASE_URL.",
        )
    elif not path.is_file():
        yield error("not-a-database", f"{path} is not a file.", "Name a file in DATABASE_URL.")


def unreadable(path: Path, exception: Exception) -> Finding | None:
    """Return the finding for an exception that says the file is damaged or no database; None for any other."""
    text = str(exception)
    if "file is not a database" in text:
        return error(
            "not-a-database",
            f"{path} is not a SQLite database, or is encrypted.",
            "Name another file in DATABASE_URL, or restore it from a backup.",
        )
    return _corrupt(path, text) if "malformed" in text else None


def check_integrity(file: File) -> Iterator[Finding]:
    """Yield whether the file is corrupt."""
    file.driver.execute("PRAGMA ignore_check_constraints = ON")  # a row that violates a constraint is no corruption
    results = [str(row[0]) for row in file.driver.execute(f"PRAGMA quick_check({_FAULTS})")]
    if results != ["ok"]:
        yield _corrupt(file.path, "; ".join(results))


def check_journal(file: File) -> Iterator[Finding]:
    """Yield whether the file has no write-ahead log."""
    with file.path.open("rb") as opened:
        header = opened.read(_HEADER_BYTES)
    if file.has_version and header[18:20] != bytes([_IS_WAL, _IS_WAL]):
        yield warning(
            "journal-mode",
            "The file has no write-ahead log: readers and writers block each other. lapse enables it when it "
            "connects next.",
            f'sqlite3 {shlex.quote(str(file.path))} "PRAGMA journal_mode = WAL"',
        )


def check_writable(path: Path) -> Iterator[Finding]:
    """Yield what this user cannot write: the file, its log files, or the directory."""
    logs = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
    for each in (path, *(file for file in logs if file.exists()), path.resolve().parent):
        if os.access(each, os.W_OK):
            continue
        is_directory = each.is_dir()
        if os.statvfs(each).f_flag & os.ST_RDONLY:
            hint = "Mount its file system for writing: `mount -o remount,rw …`"
        else:
            hint = _allow(each, "w")
        yield error(
            "read-only",
            f"This user cannot write {'to the directory ' if is_directory else ''}{each}"
            f"{', where SQLite creates its log' if is_directory else ''}: no message can be recorded.",
            hint,
        )


def check_file_system(path: Path) -> Iterator[Finding]:
    """Yield whether the file is on a network file system, as far as the kernel reports it."""
    try:
        file_system = file_system_of(_MOUNTS.read_text(encoding="utf-8", errors="replace"), path.stat().st_dev)
    except OSError:
        return
    if file_system in NETWORKED:
        yield error(
            "network-file-system",
            f"{path} is on a network file system ({file_system}): SQLite's locks and log do not work across machines, "
            "and the file may become corrupt.",
            "Keep the file on a disk of the machine that uses it, or use PostgreSQL.",
        )


def file_system_of(mounts: str, device: int) -> str | None:
    """Return the type of the file system with this device number; None where /proc/self/mountinfo does not list it."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2:3] == [wanted]:
            return rest.split(" ", 1)[0]
    return None


def _corrupt(path: Path, reason: str) -> Finding:
    name = shlex.quote(str(path))
    new = shlex.quote(str(path.with_name(f"recovered-{path.name}")))
    return error(
        CORRUPT,
        f"The file is corrupt: {mask_addresses(reason)[:300]}.",
        # Not `.recover`, which fails in Debian's sqlite3 3.40.
        "Stop the programs that use it, keep a copy, and restore the latest backup. To recover what can still be read: "
        f"sqlite3 {name} .dump | sed 's/^ROLLBACK;.*/COMMIT;/' | sqlite3 {new}",
    )


def _allow(path: Path, right: str) -> str:
    name = shlex.quote(str(path))
    if path.exists() and path.stat().st_uid != os.geteuid():
        return f"As root: chown {os.geteuid()} {name}; or run lapse as the user who owns it."
    return f"chmod u+{right} {name}"
