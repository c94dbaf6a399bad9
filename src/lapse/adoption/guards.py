"""What keeps the work of lapse's from a statement of the application's that has read the row before it."""

from __future__ import annotations

from lapse.adoption.names import ENDED_FUNCTION, STALE_FUNCTION, Names
from lapse.store.layout import LAPSE_COLUMNS

_FUNCTION = """\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $lapse$
-- {purpose}
BEGIN
{work}
END
$lapse$"""


def guard_functions(names: Names) -> list[str]:
    """Return the statements that make the functions of both triggers."""
    kept = [f"    NEW.{column} := OLD.{column};" for column in map(names.column, LAPSE_COLUMNS)]
    return [
        _FUNCTION.format(
            function=names.qualified(ENDED_FUNCTION),
            purpose="Leaves the row as it is: lapse has ended it since the application's worker read it.",
            work="    RETURN NULL;",
        ),
        _FUNCTION.format(
            function=names.qualified(STALE_FUNCTION),
            purpose="Keeps lapse's columns: a whole row is written back that was read before lapse changed it.",
            work="\n".join([*kept, "    RETURN NEW;"]),
        ),
    ]
