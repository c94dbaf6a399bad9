"""Triggers that make the application's writes conform to lapse's rules without any change in the application."""

from __future__ import annotations

from lapse.adoption import row_words
from lapse.adoption.catalog import Table
from lapse.adoption.names import INSERT_FUNCTION, LAPSE_TRIGGERS, UPDATE_FUNCTION, Names, quoted
from lapse.adoption.stale_write_triggers import stale_write_functions
from lapse.adoption.unique_conflicts import conflict_condition
from lapse.errors import AdoptionError

# enable_seqscan = off: a plan that was cached while the table was small is reused while a COPY fills it.
# The check of the table: anybody could attach a SECURITY DEFINER function to a trigger on a table of their own.
_FUNCTION = """
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $lapse$
-- {purpose}
#variable_conflict use_column
<<lapse>>
DECLARE
    opens boolean := false;{variables}
BEGIN
    IF (TG_TABLE_SCHEMA, TG_TABLE_NAME) <> ({schema_text}, '{table_name}') THEN
        RETURN NEW;
    END IF;
{decide}{ending}    RETURN NEW;
END
$lapse$
"""

_FILL = """
        NEW.{idle_check_at} := greatest(least(coalesce(NEW.updated_at, NEW.started_at, 'epoch'), now()), 'epoch')
            + NEW.{idle_timeout_seconds} * interval '1 second';"""

_DECIDE_INSERT = """\
    opens := NEW.status IN {open};
    IF NEW.{key} IS NULL THEN -- lapse itself always sets it
        ends_others := true;
        NEW.{key} := {key_function}(NEW.from_number, NEW.to_number, NEW.channel);{fill}
        IF NEW.status = 'progress' THEN
            NEW.{first_answered_at} := coalesce(NEW.{first_answered_at}, NEW.started_at, now());
        END IF;
    END IF;
"""

_DECIDE_UPDATE = """\
    IF {answers} THEN
        NEW.{first_answered_at} := coalesce(NEW.updated_at, now());
    END IF;
    IF NEW.{key} IS NULL THEN{fill}
    END IF;
    IF NEW.{key} IS NULL OR (OLD.from_number, OLD.to_number, OLD.channel)
            IS DISTINCT FROM (NEW.from_number, NEW.to_number, NEW.channel) THEN
        NEW.{key} := {key_function}(NEW.from_number, NEW.to_number, NEW.channel);
    END IF;
    opens := NEW.status IN {open} AND (
        (OLD.status IN {open}) IS NOT TRUE
        OR (OLD.owner_id, coalesce(lower(btrim(OLD.channel)), 'whatsapp'), OLD.{key})
            IS DISTINCT FROM (NEW.owner_id, coalesce(lower(btrim(NEW.channel)), 'whatsapp'), NEW.{key})
    );
"""

# Not `channel`: in the queries below that is the column (#variable_conflict use_column).
_VARIABLES = """
    ends_others boolean := {ends_others};
    has_conflict boolean;
    is_locked boolean := false;
    normalized_channel text := coalesce(lower(btrim(NEW.channel)), 'whatsapp');
    pair_lock bigint;
    locks integer := coalesce(nullif(current_setting('lapse.pair_locks', true), ''), '0');
    moment timestamptz;
    other record;"""

# No deadlock: the holder of a pair's advisory lock waits for no row, while a transaction that waits for the lock may
# hold rows, such as one that ends a conversation and then opens the pair's next one.
_ENDING = """
    IF NOT coalesce(opens, false) THEN
        RETURN NEW;
    END IF;
    pair_lock := hashtextextended(concat_ws('::', NEW.owner_id, normalized_channel, NEW.{key}) COLLATE "C", {seed});
    LOOP
        -- Serializes transactions that open a conversation of the pair. First wait for those that are updating one.
        PERFORM FROM {conversations} AS c
            WHERE {open_of_pair}
            ORDER BY c.conv_id FOR NO KEY UPDATE;
        BEGIN
            IF locks < {max_pair_locks} THEN
                PERFORM pg_advisory_xact_lock(pair_lock);
                PERFORM set_config('lapse.pair_locks', (locks + 1)::text, true);
            END IF;
            is_locked := true;
            PERFORM FROM {conversations} AS c
                WHERE {open_of_pair}
                FOR NO KEY UPDATE NOWAIT;
        EXCEPTION WHEN lock_not_available THEN
            IF NOT is_locked THEN
                RAISE; -- the application's own lock_timeout
            END IF;
            is_locked := false; -- another transaction was faster: the pair's lock is released, and acquired again
        END;
        EXIT WHEN is_locked;
    END LOOP;
    -- Under the lock, so that no conflicting row can vanish before the application's ON CONFLICT checks again.
    BEGIN
        has_conflict := ends_others AND (
            {conflict_condition}
        );
    EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
        has_conflict := false; -- a column of the application's index was renamed or dropped
    END;
    IF has_conflict OR NOT ends_others THEN
        RETURN NEW; -- an index of the application's refuses the row, or its ON CONFLICT applies, as without lapse
    END IF;
    moment := clock_timestamp();
    FOR other IN SELECT c.conv_id, c.status FROM {conversations} AS c
            WHERE {open_of_pair}
    LOOP
        WITH ended AS (
            UPDATE {conversations} AS c
            SET status = 'expired', ended_at = coalesce(c.ended_at, lapse.moment), {version} = c.{version} + 1
            WHERE c.conv_id = other.conv_id
            RETURNING c.owner_id, c.conv_id, c.{version}
        )
        INSERT INTO {events}
            (owner_id, conv_id, {version}, type, from_status, to_status, reason, actor, occurred_at)
        SELECT ended.owner_id, ended.conv_id, ended.{version}, 'expired', other.status, 'expired', '{reason}',
            '{actor}', lapse.moment
        FROM ended
        ON CONFLICT DO NOTHING;
    END LOOP;
"""

_OPEN_OF_PAIR = """\
c.owner_id = NEW.owner_id AND coalesce(lower(btrim(c.channel)), 'whatsapp'::text) = lapse.normalized_channel
                AND c.{key} = NEW.{key} AND c.status IN {open}"""


def row_functions(names: Names, table: Table, *, ends_others: bool) -> list[str]:
    """Return the statements that create the functions of the triggers, owned by the table's owner.

    Args:
        names: of the table and its columns.
        table: as the catalog describes it; its own unique indexes take precedence.
        ends_others: a conversation that the application opens ends the pair's other ones. This requires the index of
            open conversations, and a key in every row. Otherwise the functions only fill lapse's columns.

    Raises:
        AdoptionError: `$lapse$`, which quotes the functions, occurs in one of them.
    """
    words = row_words.words(names)
    functions = stale_write_functions(names)
    for on_update in (False, True):
        name = UPDATE_FUNCTION if on_update else INSERT_FUNCTION
        open_of_pair = _OPEN_OF_PAIR + ("\n                AND c.conv_id <> OLD.conv_id" if on_update else "")
        ending = _ENDING.format(
            **words,
            open_of_pair=open_of_pair.format(**words),
            conflict_condition=conflict_condition(names, table, on_update=on_update),
        )
        variables = _VARIABLES.format(ends_others="true" if on_update else "false")
        text = _FUNCTION.format(
            **words,
            function=names.qualified(name),
            purpose=_purpose(on_update=on_update, ends_others=ends_others),
            variables=variables if ends_others else "\n    ends_others boolean;",
            decide=(_DECIDE_UPDATE if on_update else _DECIDE_INSERT).format(**words, fill=_FILL.format(**words)),
            ending=ending if ends_others else "",
        )
        if text.count("$lapse$") != 2:
            raise AdoptionError(
                "the schema of conversations, or a unique index there, has $lapse$ in its name or definition, which "
                "quotes lapse's functions; nothing was changed: rename it"
            )
        functions.append(text.strip())
    owned = [f"ALTER FUNCTION {signature} OWNER TO {quoted(table.owner)}" for signature in row_words.signatures(names)]
    closed = [f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC" for signature in row_words.signatures(names)]
    return functions + owned + closed


def row_triggers(names: Names) -> list[str]:
    """Return the statements that create the triggers on the application's table.

    The two that fill keys fire in every session, including replication: a row without a key violates the constraint.
    """
    words = row_words.words(names)
    return [
        text.strip().format(**words)
        for text in (
            """
CREATE OR REPLACE TRIGGER {insert_trigger} BEFORE INSERT ON {conversations}
    FOR EACH ROW EXECUTE FUNCTION {insert_function}()
""",
            """
CREATE OR REPLACE TRIGGER {update_trigger} BEFORE UPDATE ON {conversations}
    FOR EACH ROW WHEN (
        NEW.{key} IS NULL
        OR (OLD.owner_id, OLD.from_number, OLD.to_number, OLD.channel)
            IS DISTINCT FROM (NEW.owner_id, NEW.from_number, NEW.to_number, NEW.channel)
        OR NEW.status IN {open}
            AND (OLD.status IN {open}) IS NOT TRUE
        OR {answers}
    ) EXECUTE FUNCTION {update_function}()
""",
            """
CREATE OR REPLACE TRIGGER {ended_trigger} BEFORE UPDATE OF status ON {conversations}
    FOR EACH ROW WHEN (
        OLD.status IN {ended}
        AND NEW.status IN ('expired', 'idle_timeout')
        AND (NEW.status <> OLD.status OR NEW.ended_at IS DISTINCT FROM OLD.ended_at)
        AND NOT (OLD.status = 'idle_timeout' AND NEW.status = 'expired')
    ) EXECUTE FUNCTION {ended_function}()
""",
            # Named to fire before the application's own, whose condition may read the version (`restrict_statements`).
            """
CREATE OR REPLACE TRIGGER {stale_trigger} BEFORE UPDATE ON {conversations}
    FOR EACH ROW WHEN (NEW.{version} < OLD.{version}) EXECUTE FUNCTION {stale_function}()
""",
            "ALTER TABLE {conversations} ENABLE ALWAYS TRIGGER {insert_trigger}",
            "ALTER TABLE {conversations} ENABLE ALWAYS TRIGGER {update_trigger}",
        )
    ]


def drop_triggers_and_functions(names: Names) -> list[str]:
    """Return the statements that drop lapse's triggers and functions, if they exist."""
    table = names.conversations
    triggers = [f"DROP TRIGGER IF EXISTS {name} ON {table}" for name in LAPSE_TRIGGERS]
    return triggers + [f"DROP FUNCTION IF EXISTS {signature}" for signature in row_words.signatures(names)]


def _purpose(*, on_update: bool, ends_others: bool) -> str:
    if not ends_others:
        return "Fills lapse's columns in a row that the application writes."
    opens = "re-opens or moves to another pair" if on_update else "opens"
    return (
        f"Fills lapse's columns in a row that the application writes.\n-- What it {opens} ends the pair's other ones."
    )
