-- Who may do what: the roles of lapse on PostgreSQL 14 or later. For psql, of any version from 10 on:
--
--     psql "$OWNER_URL" -f deploy/postgres/roles.sql
--
-- Run it as the owner of the tables, who needs CREATEROLE, or as a superuser. It is one transaction, and changes nothing
-- where everything is there. Run it before `lapse migrate` for the roles, and after `lapse migrate` or `lapse adopt` for
-- their rights. Other names: -v worker=… -v application=… -v owner=… -v schema=…; a role that is there is taken as it is.
-- There is no password in here. Set one for each new role: \password lapse_worker

\set ON_ERROR_STOP on
\if :{?schema}
\else
\set schema public
\endif
\if :{?owner}
\else
\set owner lapse_owner
\endif
\if :{?application}
\else
\set application lapse_application
\endif
\if :{?worker}
\else
\set worker lapse_worker
\endif

BEGIN;
-- A policy needs the table for itself, for a moment; messages must not queue behind this script for longer.
SET LOCAL lock_timeout = '2s';

-- What is there. Whoever owns the table already stays its owner: the application's own migrations count on it.
SELECT format('%I.conversations', :'schema') AS conversations,
    format('%I.conversation_events', :'schema') AS conversation_events,
    format('%I.message_receipts', :'schema') AS message_receipts,
    format('%I.lapse_schema_version', :'schema') AS lapse_schema_version,
    format('%I.lapse_adoption', :'schema') AS lapse_adoption
\gset
SELECT to_regclass(:'conversations') IS NOT NULL AS has_conversations,
    to_regclass(:'lapse_schema_version') IS NOT NULL AS has_lapse,
    to_regclass(:'message_receipts') IS NOT NULL AS has_receipts,
    to_regclass(:'lapse_adoption') IS NOT NULL AS is_adopted
\gset
\if :has_conversations
SELECT pg_get_userbyid(relowner) AS owner FROM pg_class WHERE oid = :'conversations'::regclass
\gset
\endif
SELECT to_regrole(quote_ident(:'owner')) IS NULL AS is_new_owner,
    to_regrole(quote_ident(:'application')) IS NULL AS is_new_application,
    to_regrole(quote_ident(:'worker')) IS NULL AS is_new_worker
\gset

-- --- owner: owns the tables, runs `lapse migrate`, `lapse adopt` and `lapse unadopt`, and nothing else ----------------

\if :is_new_owner
CREATE ROLE :"owner" LOGIN;
\endif

-- --- application: uses the library, or its own SQL beside lapse; deletes nothing, cannot rewrite the history ----------

\if :is_new_application
CREATE ROLE :"application" LOGIN;
\endif

-- --- worker: runs `lapse worker`, `lapse status`, `lapse preview` and `lapse doctor` ----------------------------------

\if :is_new_worker
CREATE ROLE :"worker" LOGIN;
-- A worker that waits says so and tries again: docs/operations.md, Settings.
ALTER ROLE :"worker" SET lock_timeout = '5s';
ALTER ROLE :"worker" SET statement_timeout = '30s';
ALTER ROLE :"worker" SET idle_in_transaction_session_timeout = '60s';
ALTER ROLE :"worker" SET client_connection_check_interval = '5s';
\endif

-- What everybody has already is not granted again.
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), of_role)
FROM unnest(ARRAY[:'owner', :'application', :'worker']) AS of_role
WHERE NOT has_database_privilege(of_role, current_database(), 'CONNECT')
UNION ALL
SELECT format('GRANT %s ON SCHEMA %I TO %I', of_right, :'schema', of_role)
FROM (VALUES (:'owner', 'USAGE'), (:'owner', 'CREATE'), (:'application', 'USAGE'), (:'worker', 'USAGE'))
    AS wanted (of_role, of_right)
WHERE NOT has_schema_privilege(of_role, :'schema', of_right)
\gexec

\if :has_lapse

GRANT SELECT, INSERT, UPDATE ON :conversations TO :"application", :"worker";
GRANT SELECT, INSERT ON :conversation_events TO :"application", :"worker";
-- From schema version 0005 on: whoever records a message leaves a receipt, the worker forgets old ones.
\if :has_receipts
GRANT SELECT, INSERT ON :message_receipts TO :"application";
GRANT SELECT, DELETE ON :message_receipts TO :"worker";
\endif
GRANT SELECT ON :lapse_schema_version TO :"application", :"worker";
\if :is_adopted
GRANT SELECT ON :lapse_adoption TO :"application", :"worker";
\endif

-- An adopted table may number its conversations. Only who opens one draws a number.
SELECT format('GRANT USAGE ON SEQUENCE %s TO %I', sequence, :'application')
FROM (
    SELECT pg_get_serial_sequence(:'conversations', 'conv_id')::regclass AS sequence
    UNION
    SELECT s.oid::regclass
    FROM pg_attrdef f
    JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attname = 'conv_id'
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
    WHERE f.adrelid = :'conversations'::regclass
) AS sequences
WHERE sequence IS NOT NULL
\gexec

-- --- purger: runs `lapse purge`; only with -v purger=lapse_purger, since nobody else may delete ------------------------

\if :{?purger}
SELECT to_regrole(quote_ident(:'purger')) IS NULL AS is_new_purger
\gset
\if :is_new_purger
CREATE ROLE :"purger" LOGIN;
\endif
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', :'schema', :'purger')
WHERE NOT has_schema_privilege(:'purger', :'schema', 'USAGE')
\gexec
GRANT SELECT, DELETE ON :conversations, :conversation_events TO :"purger";
GRANT UPDATE (metadata) ON :conversations TO :"purger"; -- to lock a row one must be able to update some column of it
GRANT SELECT ON :lapse_schema_version TO :"purger";
\if :is_adopted
GRANT SELECT ON :lapse_adoption TO :"purger";
\endif
\else
\set purger ''
\endif

-- --- row level security: without a policy a role sees no row, and no error either -------------------------------------
-- `lapse migrate` and `lapse adopt` switch it on for lapse's own tables. A policy opens nothing that was not granted above.

-- The application's policies filter by tenant, perhaps: a second one that lets all through would end that.
SELECT count(*) = 0 AS is_application_free
FROM pg_policy p, unnest(p.polroles) AS of_role
WHERE p.polrelid = :'conversations'::regclass AND NOT starts_with(p.polname, 'lapse_')
    AND (of_role = 0 OR pg_has_role(:'application', of_role, 'USAGE'))
\gset
SELECT format('CREATE POLICY %I ON %s TO %I USING (true) WITH CHECK (true)', policy, of_table, of_role)
FROM (
    SELECT ('lapse_' || of_role)::name AS policy, of_role, of_table
    FROM unnest(ARRAY[:'application', :'worker', :'purger']) AS of_role,
        unnest(ARRAY[:'conversations', :'conversation_events', :'message_receipts', :'lapse_schema_version',
            :'lapse_adoption']) AS of_table
    WHERE of_role <> '' AND to_regclass(of_table) IS NOT NULL
        AND (:'is_application_free' OR of_role <> :'application'
            OR of_table IN (:'lapse_schema_version', :'lapse_adoption'))
) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = to_regclass(of_table) AND p.polname = policy)
\gexec

-- Supabase gives every new table in public to these two, and publishes it: nobody's business, unless a policy says so.
-- An adopted table conversations is the application's affair.
SELECT format('REVOKE ALL ON %s FROM %I', of_table, rolname)
FROM pg_roles r,
    unnest(ARRAY[:'conversation_events', :'message_receipts', :'lapse_schema_version', :'lapse_adoption',
        :'conversations']) AS of_table
WHERE rolname IN ('anon', 'authenticated') AND to_regclass(of_table) IS NOT NULL
    AND NOT (:'is_adopted' AND of_table = :'conversations')
    AND NOT EXISTS (
        SELECT FROM pg_policy p WHERE p.polrelid = to_regclass(of_table) AND p.polpermissive
            AND (r.oid = ANY (p.polroles) OR 0 = ANY (p.polroles))
    )
\gexec

\endif
COMMIT;

-- --- what is left to do -----------------------------------------------------------------------------------------------

SELECT has_schema_privilege('public', :'schema', 'CREATE') AS may_anybody_create
\gset
\if :may_anybody_create
\echo Every role may create tables in schema :"schema", as was usual before PostgreSQL 15. If nobody counts on it:
\echo '   ' REVOKE CREATE ON SCHEMA :"schema" FROM PUBLIC;
\endif
\if :has_lapse
\if :is_application_free
\else
\echo The policies of :conversations apply to :"application" and stay as they are. lapse called as that role sees what they show:
\echo give it a policy on :conversation_events and :message_receipts as well, or look at lapse doctor with its DATABASE_URL.
\endif
\else
\echo lapse has no tables here yet. Run lapse migrate or lapse adopt as :"owner", then this script again.
\endif
