"""`lapse migrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from lapse.cli.databases import open_database
from lapse.cli.options import DatabaseUrl, option
from lapse.cli.output import listed, progress_bar
from lapse.cli.step_progress import StepProgress

LONG_SECONDS = 1.0
"""A step that took so long gets a line."""


def migrate(
    database_url: DatabaseUrl = None,
    distribute: Annotated[
        bool, typer.Option("--distribute", help="Citus: then distribute the tables over the cluster's nodes, by owner.")
    ] = False,
    owner_type: Annotated[
        str | None, option("TYPE", "Of owner_id in a new database: bigint, uuid or text.", default="bigint")
    ] = None,
) -> None:
    """Create or upgrade the schema. Safe to repeat, to interrupt, and to run from several places at once.

    What takes long on PostgreSQL is done beside messages, before the schema has its new version.
    """
    from lapse.store import migrate as migrate_schema
    from lapse.store import schema_version
    from lapse.store.operations import distribution

    with open_database(database_url) as (database, _):
        # Without retries, so that an unreachable server is reported immediately; the migration itself is retried.
        if distribute:
            database.run(distribution.check, database.safe_url, retry=False)
        schema_version(database, retry=False)
        with progress_bar() as bar:
            result = migrate_schema(database, owner_type=owner_type, progress=StepProgress(bar, LONG_SECONDS))
        distributed = database.run(distribution.distribute, database.safe_url) if distribute else []
    if not result.changed:
        message = f"nothing to do: the schema is at version {result.after}"
    elif result.before is None:
        message = f"created the schema, version {result.after}"
    else:
        message = f"upgraded the schema from version {result.before} to {result.after}"
    if distributed:
        message += f"; distributed {listed(distributed)} by owner"
    elif distribute:
        message += "; the tables are distributed already"
    typer.echo(f"{database.safe_url}: {message}")
    if result.shut_out:
        typer.echo(
            f"closed to {', '.join(result.shut_out)}, whom only default privileges let in; a role of yours among them "
            "gets its rights from deploy/postgres/roles.sql"
        )
