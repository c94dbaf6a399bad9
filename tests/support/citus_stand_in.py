"""A stand-in for Citus on plain PostgreSQL: the parts of its catalog and the functions that lapse asks for.

It lets the code run that detects and distributes tables, and the statements for distributed tables. It spreads nothing
over shards and refuses no statement, so it does not show what Citus would say to them: that is for a real cluster
(CONTRIBUTING.md) and, before it, for the rules of tests/support/citus_rules.py. Signatures and names are Citus' own.
"""

from __future__ import annotations

import psycopg
from sqlalchemy import make_url

_EXTENSION = """
    CREATE SCHEMA citus;
    CREATE TYPE citus.distribution_type AS ENUM ('hash', 'range', 'append');
    CREATE TABLE pg_dist_local_group (groupid integer NOT NULL);
    INSERT INTO pg_dist_local_group VALUES (0);
    CREATE TABLE pg_dist_partition (
        logicalrelid regclass PRIMARY KEY, partmethod "char" NOT NULL, partkey text, colocationid integer NOT NULL);

    CREATE FUNCTION column_to_column_name(table_name regclass, column_var_text text) RETURNS text
        LANGUAGE sql STABLE STRICT AS 'SELECT column_var_text';

    CREATE FUNCTION create_distributed_table(
            table_name regclass, distribution_column text, distribution_type citus.distribution_type DEFAULT 'hash',
            colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL) RETURNS void
        LANGUAGE sql AS $$
            INSERT INTO pg_dist_partition VALUES (table_name, 'h', distribution_column, CASE
                WHEN colocate_with IN ('default', 'none') THEN (SELECT count(*) + 1 FROM pg_dist_partition)
                ELSE (SELECT colocationid FROM pg_dist_partition WHERE logicalrelid = colocate_with::regclass) END)
        $$;

    CREATE FUNCTION create_reference_table(table_name regclass) RETURNS void
        LANGUAGE sql AS $$ INSERT INTO pg_dist_partition VALUES (table_name, 'n', NULL, 1000) $$;
"""


def install_stand_in(url: str) -> None:
    """Do what CREATE EXTENSION citus would do in this database, as far as lapse looks."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(_EXTENSION)
