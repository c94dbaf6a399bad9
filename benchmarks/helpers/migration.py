"""Gives an empty database the schema of one version of lapse, whichever is imported here."""

from __future__ import annotations

from contextlib import closing

from benchmarks.helpers import answer, database_url
from lapse.store import Database, migrate


def main() -> None:
    """Create the tables, and say so."""
    with closing(Database(database_url())) as database:
        migrate(database)
    answer({"migrated": True})


if __name__ == "__main__":
    main()
