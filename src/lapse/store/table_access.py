"""Who may use lapse's tables on PostgreSQL: their owner, and the roles that somebody named.

Default privileges name nobody: Supabase's give every new table of the schema `public` to the roles of its API, `anon`
and `authenticated`, as whom everybody works who has the API's public key.
"""

from __future__ import annotations

from collections.abc import Iterable

from lapse.store.table_locks import oid_of

# One row for each table and each role with any right to it. Not those whom no policy binds: the owner and who inherits
# its rights, superusers, and roles with BYPASSRLS, such as Supabase's service_role.
_GRANTEES = """
    WITH tables AS (
        SELECT * FROM pg_class WHERE oid IN ({tables}) AND relkind IN ('r', 'p')
    ), held AS (
        SELECT t.oid AS of_table, x.grantee, x.privilege_type AS privilege FROM tables t, aclexplode(t.relacl) x
        UNION
        SELECT t.oid, x.grantee, x.privilege_type
        FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid, aclexplode(a.attacl) x
    ), by_default AS (
        SELECT d.defaclnamespace AS of_schema, x.grantee, x.privilege_type AS privilege
        FROM pg_default_acl d, aclexplode(d.defaclacl) x WHERE d.defaclobjtype = 'r'
    ), policies AS (
        SELECT p.polrelid AS of_table, of_role, p.polcmd = '*' AS for_all,
            CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END
                AS command,
            coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') = 'true'
                AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true' AS lets_all
        FROM pg_policy p, unnest(p.polroles) AS of_role WHERE p.polpermissive
    ), bound AS (
        SELECT t.relname::text AS table_name, format('%I.%I', n.nspname, t.relname) AS of_table, t.relrowsecurity,
            r.rolname, h.grantee, h.privilege,
            NOT EXISTS (SELECT FROM by_default d WHERE (d.grantee, d.privilege) = (h.grantee, h.privilege)
                AND d.of_schema IN (0, t.relnamespace)) AS is_granted,
            EXISTS (SELECT FROM policies p WHERE (p.of_table, p.of_role) = (t.oid, h.grantee) AND p.of_role <> 0)
                AS has_policy,
            EXISTS (SELECT FROM policies p WHERE p.of_table = t.oid AND NOT p.lets_all AND p.of_role IN (0, h.grantee))
                AS is_filtered,
            h.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') AND (NOT t.relrowsecurity OR EXISTS (
                SELECT FROM policies p
                WHERE p.of_table = t.oid AND p.lets_all AND (p.for_all OR p.command = h.privilege)
                AND CASE WHEN p.of_role = 0 THEN true WHEN h.grantee = 0 THEN false
                    ELSE pg_has_role(h.grantee, p.of_role, 'USAGE') END)) AS is_open,
            EXISTS (SELECT FROM pg_roles l WHERE l.rolcanlogin AND l.oid <> t.relowner
                AND NOT (l.rolsuper OR l.rolbypassrls)
                AND CASE WHEN h.grantee = 0 THEN false ELSE pg_has_role(l.oid, h.grantee, 'USAGE') END) AS logs_in
        FROM held h JOIN tables t ON t.oid = h.of_table JOIN pg_namespace n ON n.oid = t.relnamespace
            LEFT JOIN pg_roles r ON r.oid = h.grantee
        WHERE h.grantee = 0 OR NOT (r.rolsuper OR r.rolbypassrls OR pg_has_role(h.grantee, t.relowner, 'USAGE'))
    )
    SELECT table_name, of_table, relrowsecurity AS has_row_security, rolname AS role,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(rolname) END AS of_role,
        grantee = 0 OR rolname IN ('anon', 'authenticated') AS is_anybody,
        bool_or(is_granted) AS is_granted, has_policy, is_filtered, logs_in,
        array_agg(privilege ORDER BY privilege) AS rights,
        coalesce(array_agg(privilege ORDER BY privilege) FILTER (WHERE is_open), '{{}}') AS open_rights
    FROM bound
    GROUP BY table_name, of_table, relrowsecurity, grantee, rolname, has_policy, is_filtered, logs_in
    ORDER BY table_name, rolname"""

# Whom a policy names, who has more than default privileges give, whom policies show what they should see: somebody
# wants it so.
_IS_KEPT = """
    has_policy OR is_granted AND NOT is_anybody{or_logs_in}
    OR has_row_security AND is_filtered AND open_rights = '{{}}'"""
_OR_LOGS_IN = " OR logs_in AND NOT is_anybody"

_CLOSE = """
DO $closing$
DECLARE
    one record;
    policy name;
BEGIN
    FOR one IN SELECT *, ({is_kept}) AS is_kept FROM ({grantees}) AS grantees LOOP
        IF NOT one.is_kept THEN
            EXECUTE format('REVOKE ALL ON %s FROM %s CASCADE', one.of_table, one.of_role);
        ELSIF one.is_anybody OR NOT (one.is_granted OR one.logs_in) THEN
            -- No policy binds who has these.
            EXECUTE format('REVOKE TRUNCATE, REFERENCES, TRIGGER ON %s FROM %s CASCADE', one.of_table, one.of_role);
        END IF;
        policy := ('lapse_' || one.role)::name;
        IF one.is_kept AND NOT (one.has_policy OR one.has_row_security) AND NOT EXISTS (
            SELECT FROM pg_policy p WHERE p.polrelid = one.of_table::regclass AND p.polname = policy
        ) THEN
            EXECUTE format(
                'CREATE POLICY %I ON %s TO %s USING (true) WITH CHECK (true)', policy, one.of_table, one.of_role
            );
        END IF;
    END LOOP;
    FOR one IN {unguarded} LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', one.of_table);
    END LOOP;
END
$closing$"""


def grantees_query(tables: Iterable[str]) -> str:
    """Return the query of who has which rights to these tables, and whether somebody wants it so.

    Args:
        tables: as SQL spells them; those that are not there have no rows.
    """
    return _GRANTEES.format(tables=_oids(tables))


def close_statement(tables: Iterable[str], *, keep_logins: bool) -> str:
    """Return the statement that closes tables to all but their owner and the roles that somebody named.

    Row level security is on afterwards. A role that had rights without it, by a GRANT, gets a policy `lapse_…` and goes
    on; what only default privileges gave is taken away.

    Args:
        tables: of lapse's own, as SQL spells them; those that are not there are left out.
        keep_logins: also let those go on to whom default privileges give the tables and who log in themselves, or
            inherit it when they do: an application that works with these tables already, not a role of an API's.
    """
    return _CLOSE.format(
        grantees=grantees_query(tables),
        is_kept=_IS_KEPT.format(or_logs_in=_OR_LOGS_IN if keep_logins else ""),
        unguarded=unguarded_query(tables),
    ).strip()


def share_statement(source: str, target: str) -> str:
    """Return the statement that lets roles go on with a table that lapse is given later than others.

    Who may INSERT into the table `source` by its own name may SELECT, INSERT and DELETE in `target`: an application
    that works already, or a worker. Not the roles of an API.
    """
    return f"""
DO $sharing$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT DISTINCT r.rolname FROM pg_class c, aclexplode(c.relacl) x JOIN pg_roles r ON r.oid = x.grantee
        WHERE c.oid = {oid_of(source)} AND x.privilege_type = 'INSERT' AND x.grantee <> c.relowner
            AND r.rolname NOT IN ('anon', 'authenticated')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON {target} TO %I', one.rolname);
    END LOOP;
END
$sharing$""".strip()  # noqa: S608 - of names


def unguarded_query(tables: Iterable[str]) -> str:
    """Return the query of those of these tables (`of_table`) that have no row level security."""
    return f"""
        SELECT oid::regclass AS of_table FROM pg_class
        WHERE oid IN ({_oids(tables)}) AND relkind IN ('r', 'p') AND NOT relrowsecurity"""  # noqa: S608 - of names


def shut_out_query(tables: Iterable[str], *, keep_logins: bool) -> str:
    """Return the query of the roles that `close_statement` leaves without any right."""
    is_kept = _IS_KEPT.format(or_logs_in=_OR_LOGS_IN if keep_logins else "")
    return f"SELECT DISTINCT of_role FROM ({grantees_query(tables)}) AS grantees WHERE NOT ({is_kept}) ORDER BY of_role"  # noqa: S608


def _oids(tables: Iterable[str]) -> str:
    """Return the query of the tables' oids, with those of their partitions, which have rights of their own."""
    listed = f"unnest(ARRAY[{', '.join(map(oid_of, tables))}]) AS of_table"
    return f"SELECT of_table FROM {listed} UNION SELECT relid FROM {listed}, pg_partition_tree(of_table)"  # noqa: S608
