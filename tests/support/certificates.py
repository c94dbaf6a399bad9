"""Certificates made for a test run by `openssl`: an authority, what it signed, and an authority that signed nothing."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
CLIENT = "certified"
"""The role that the client's certificate is made out to."""


@dataclass(frozen=True)
class Certificates:
    """Where they are: for each name a `.crt` and a `.key`."""

    folder: Path

    def path(self, name: str) -> Path:
        """Return the file of this name."""
        return self.folder / name

    def copy_for_server(self, folder: Path) -> None:
        """Copy what a server needs, which belongs to another user."""
        for name in ("server.crt", "server.key", "authority.crt"):
            shutil.copy(self.path(name), folder)
            (folder / name).chmod(0o600)


def can_make_certificates() -> bool:
    """Tell whether there is an OpenSSL that signs requests in one step, which 3.0 was the first to do."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return False
    version = subprocess.run([openssl, "version"], capture_output=True, text=True, check=False).stdout
    return version.startswith("OpenSSL ") and int(version.split()[1].partition(".")[0]) >= 3


def make_certificates(folder: Path) -> Certificates:
    """Make them all."""
    for authority in ("authority", "stranger"):
        _make(folder, authority, authority)
    signed = ("-CA", "authority.crt", "-CAkey", "authority.key", "-addext", "basicConstraints=critical,CA:FALSE")
    _make(folder, "server", "server", *signed, "-addext", f"subjectAltName=IP:{HOST}")
    _make(folder, "client", CLIENT, *signed)
    return Certificates(folder)


def _make(folder: Path, name: str, common_name: str, *options: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN={common_name}"]
    subprocess.run([*command, *files, *options], cwd=folder, capture_output=True, check=True)
    (folder / f"{name}.key").chmod(0o600)
