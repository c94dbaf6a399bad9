"""Trigger functions that protect lapse's changes from an application statement based on an older version of the row."""

from __future__ import annotations

from lapse.adoption.names import ENDED_FUNCTION, STALE_FUNCTION, Names
from lapse.store.table_mapping import LAPSE_COLUMNS

_FUNCTION = """\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $lapse$
-- {purpose}
BEGIN
{body}
END
$lapse$"""


def stale_write_functions(names: Names) -> list[str]:
    """Return the statements that create the functions of both triggers."""
    assignments = [f"    NEW.{column} := OLD.{column};" for column in map(names.column, LAPSE_COLUMNS)]
    return [
        _FUNCTION.format(
            function=names.qualified(ENDED_FUNCTION),
            purpose="Skips the update: lapse has ended the conversation since the application read it.",
            body="    RETURN NULL;",
        ),
        _FUNCTION.format(
            function=names.qualified(STALE_FUNCTION),
            purpose="Preserves lapse's columns: the update writes back a row that was read before lapse changed it.",
            body="\n".join([*assignments, "    RETURN NEW;"]),
        ),
    ]
