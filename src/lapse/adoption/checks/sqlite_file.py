"""Check a SQLite file: whether it is there, is a database, is whole, can be written, and stands where it may."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from lapse.addresses import mask_addresses
from lapse.adoption.checks.sqlite_schema import File
from lapse.adoption.findings import Finding, note, trouble

CORRUPT = "corrupt"
_FAULTS = 5
_HEADER_BYTES = 100
_IS_WAL = 2
"""What stands at places 18 and 19 of a file with a write-ahead log."""
NETWORKED = frozenset(
    (
        *("afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs"),
        *("lustre", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"),
    )
)
_MOUNTS = Path("/proc/self/mountinfo")


def check_place(path: Path) -> Iterator[Finding]:
    """Yield why there is nothing to look at."""
    if not path.parent.is_dir():
        yield trouble(
            "empty",
            f"There is no folder {path.parent}.",
            f"mkdir -p {shlex.quote(str(path.parent))}; then `lapse migrate`; or look at DATABASE_URL.",
        )
    elif not os.access(path.parent, os.X_OK) or (path.exists() and not os.access(path, os.R_OK)):
        yield trouble("missing-right", f"This user may not read {path}.", _allow(path, "r"))
    elif not path.exists():
        yield trouble(
            "empty",
            f"There is no file {path}.",
            "`lapse migrate` makes it, and so does a worker; if it should be there, look at DATABASE_URL.",
        )
    elif not path.is_file():
        yield trouble("not-a-database", f"{path} is no file.", "Name a file in DATABASE_URL.")


def unreadable(path: Path, error: Exception) -> Finding | None:
    """Return what an error says about the file itself; None where it is about something else."""
    text = str(error)
    if "file is not a database" in text:
        return trouble(
            "not-a-database",
            f"{path} is no SQLite database, or an encrypted one.",
            "Name another file in DATABASE_URL, or put a backup in its place.",
        )
    return _damaged(path, text) if "malformed" in text else None


def check_integrity(file: File) -> Iterator[Finding]:
    """Yield whether the file is damaged."""
    file.driver.execute("PRAGMA ignore_check_constraints = ON")  # a row that breaks a rule is no damage
    found = [str(row[0]) for row in file.driver.execute(f"PRAGMA quick_check({_FAULTS})")]
    if found != ["ok"]:
        yield _damaged(file.path, "; ".join(found))


def check_journal(file: File) -> Iterator[Finding]:
    """Yield whether it has no write-ahead log."""
    with file.path.open("rb") as opened:
        header = opened.read(_HEADER_BYTES)
    if file.has_version and header[18:20] != bytes([_IS_WAL, _IS_WAL]):
        yield note(
            "journal-mode",
            "The file has no write-ahead log: readers and writers wait for each other. lapse gives it one when it "
            "connects next.",
            f'sqlite3 {shlex.quote(str(file.path))} "PRAGMA journal_mode = WAL"',
        )


def check_writable(path: Path) -> Iterator[Finding]:
    """Yield what keeps this user from writing: the file, what stands beside it, or the folder."""
    beside = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
    for each in (path, *(file for file in beside if file.exists()), path.resolve().parent):
        if os.access(each, os.W_OK):
            continue
        is_folder = each.is_dir()
        if os.statvfs(each).f_flag & os.ST_RDONLY:
            do = "Mount its file system for writing: `mount -o remount,rw …`"
        else:
            do = _allow(each, "w")
        yield trouble(
            "read-only",
            f"This user may not write {'into the folder ' if is_folder else ''}{each}"
            f"{', where SQLite keeps its log' if is_folder else ''}: nothing can be written.",
            do,
        )


def check_file_system(path: Path) -> Iterator[Finding]:
    """Yield whether the file is on another machine, as far as this one can tell."""
    try:
        found = file_system_of(_MOUNTS.read_text(encoding="utf-8", errors="replace"), path.stat().st_dev)
    except OSError:
        return
    if found in NETWORKED:
        yield trouble(
            "network-file-system",
            f"{path} is on a network file system ({found}): there the locks and the log of SQLite do not work between "
            "machines, and the file may be damaged.",
            "Keep the file on a disk of the machine that uses it, or use PostgreSQL.",
        )


def file_system_of(mounts: str, device: int) -> str | None:
    """Return the type of the file system that has this device number, by the text of /proc/self/mountinfo."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2:3] == [wanted]:
            return rest.split(" ", 1)[0]
    return None


def _damaged(path: Path, what: str) -> Finding:
    name = shlex.quote(str(path))
    new = shlex.quote(str(path.with_name(f"recovered-{path.name}")))
    return trouble(
        CORRUPT,
        f"The file is damaged: {mask_addresses(what)[:300]}.",
        # Not `.recover`: Debian's sqlite3 3.40 has one that fails.
        "Stop what uses it, keep a copy, and put the latest backup in its place. What can still be read: "
        f"sqlite3 {name} .dump | sed 's/^ROLLBACK;.*/COMMIT;/' | sqlite3 {new}",
    )


def _allow(path: Path, right: str) -> str:
    name = shlex.quote(str(path))
    if path.exists() and path.stat().st_uid != os.geteuid():
        return f"As root: chown {os.geteuid()} {name}; or run lapse as the user whose it is."
    return f"chmod u+{right} {name}"
