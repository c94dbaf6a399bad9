-- A table conversations with a column policy_id of its own, as lapse of schema version 0004 adopted it; from pg_dump.
CREATE FUNCTION public.lapse_already_ended() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN NULL;
END
$$;
CREATE FUNCTION public.lapse_before_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
<<lapse>>
DECLARE
    opens boolean := false;
    ends_others boolean := false;
    has_conflict boolean;
    is_locked boolean := false;
    normalized_channel text := coalesce(lower(btrim(NEW.channel)), 'whatsapp');
    pair_lock bigint;
    locks integer := coalesce(nullif(current_setting('lapse.pair_locks', true), ''), '0');
    moment timestamptz;
    other record;
BEGIN
    IF (TG_TABLE_SCHEMA, TG_TABLE_NAME) <> ('public', 'conversations') THEN
        RETURN NEW;
    END IF;
    opens := NEW.status IN ('pending', 'progress', 'idle_timeout');
    IF NEW.session_key IS NULL THEN -- lapse itself always sets it
        ends_others := true;
        NEW.session_key := public.lapse_session_key(NEW.from_number, NEW.to_number, NEW.channel);
        NEW.idle_check_at := greatest(least(coalesce(NEW.updated_at, NEW.started_at, 'epoch'), now()), 'epoch')
            + NEW.idle_timeout_seconds * interval '1 second';
    END IF;
    IF NOT coalesce(opens, false) THEN
        RETURN NEW;
    END IF;
    pair_lock := hashtextextended(concat_ws('::', NEW.owner_id, normalized_channel, NEW.session_key) COLLATE "C", 465491227493);
    LOOP
        -- Serializes transactions that open a conversation of the pair. First wait for those that are updating one.
        PERFORM FROM public.conversations AS c
            WHERE c.owner_id = NEW.owner_id AND coalesce(lower(btrim(c.channel)), 'whatsapp'::text) = lapse.normalized_channel
                AND c.session_key = NEW.session_key AND c.status IN ('pending', 'progress', 'idle_timeout')
            ORDER BY c.conv_id FOR NO KEY UPDATE;
        BEGIN
            IF locks < 200 THEN
                PERFORM pg_advisory_xact_lock(pair_lock);
                PERFORM set_config('lapse.pair_locks', (locks + 1)::text, true);
            END IF;
            is_locked := true;
            PERFORM FROM public.conversations AS c
                WHERE c.owner_id = NEW.owner_id AND coalesce(lower(btrim(c.channel)), 'whatsapp'::text) = lapse.normalized_channel
                AND c.session_key = NEW.session_key AND c.status IN ('pending', 'progress', 'idle_timeout')
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
            EXISTS (
                    SELECT FROM (SELECT conv_id AS lapse_0 FROM (SELECT NEW.*) AS conversations) AS lapse_new,
                        public.conversations AS c
                    WHERE conv_id = lapse_new.lapse_0
                )
        );
    EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
        has_conflict := false; -- a column of the application's index was renamed or dropped
    END;
    IF has_conflict OR NOT ends_others THEN
        RETURN NEW; -- an index of the application's refuses the row, or its ON CONFLICT applies, as without lapse
    END IF;
    moment := clock_timestamp();
    FOR other IN SELECT c.conv_id, c.status FROM public.conversations AS c
            WHERE c.owner_id = NEW.owner_id AND coalesce(lower(btrim(c.channel)), 'whatsapp'::text) = lapse.normalized_channel
                AND c.session_key = NEW.session_key AND c.status IN ('pending', 'progress', 'idle_timeout')
    LOOP
        WITH ended AS (
            UPDATE public.conversations AS c
            SET status = 'expired', ended_at = coalesce(c.ended_at, lapse.moment), version = c.version + 1
            WHERE c.conv_id = other.conv_id
            RETURNING c.owner_id, c.conv_id, c.version
        )
        INSERT INTO public.conversation_events
            (owner_id, conv_id, version, type, from_status, to_status, reason, actor, occurred_at)
        SELECT ended.owner_id, ended.conv_id, ended.version, 'expired', other.status, 'expired', 'duplicate_session',
            'application', lapse.moment
        FROM ended
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN NEW;
END
$$;
CREATE FUNCTION public.lapse_before_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
<<lapse>>
DECLARE
    opens boolean := false;
    ends_others boolean := true;
    has_conflict boolean;
    is_locked boolean := false;
    normalized_channel text := coalesce(lower(btrim(NEW.channel)), 'whatsapp');
    pair_lock bigint;
    locks integer := coalesce(nullif(current_setting('lapse.pair_locks', true), ''), '0');
    moment timestamptz;
    other record;
BEGIN
    IF (TG_TABLE_SCHEMA, TG_TABLE_NAME) <> ('public', 'conversations') THEN
        RETURN NEW;
    END IF;
    IF NEW.session_key IS NULL THEN
        NEW.idle_check_at := greatest(least(coalesce(NEW.updated_at, NEW.started_at, 'epoch'), now()), 'epoch')
            + NEW.idle_timeout_seconds * interval '1 second';
    END IF;
    IF NEW.session_key IS NULL OR (OLD.from_number, OLD.to_number, OLD.channel)
            IS DISTINCT FROM (NEW.from_number, NEW.to_number, NEW.channel) THEN
        NEW.session_key := public.lapse_session_key(NEW.from_number, NEW.to_number, NEW.channel);
    END IF;
    opens := NEW.status IN ('pending', 'progress', 'idle_timeout') AND (
        (OLD.status IN ('pending', 'progress', 'idle_timeout')) IS NOT TRUE
        OR (OLD.owner_id, coalesce(lower(btrim(OLD.channel)), 'whatsapp'), OLD.session_key)
            IS DISTINCT FROM (NEW.owner_id, coalesce(lower(btrim(NEW.channel)), 'whatsapp'), NEW.session_key)
    );
    IF NOT coalesce(opens, false) THEN
        RETURN NEW;
    END IF;
    pair_lock := hashtextextended(concat_ws('::', NEW.owner_id, normalized_channel, NEW.session_key) COLLATE "C", 465491227493);
    LOOP
        -- Serializes transactions that open a conversation of the pair. First wait for those that are updating one.
        PERFORM FROM public.conversations AS c
            WHERE c.owner_id = NEW.owner_id AND coalesce(lower(btrim(c.channel)), 'whatsapp'::text) = lapse.normalized_channel
                AND c.session_key = NEW.session_key AND c.status IN ('pending', 'progress', 'idle_timeout')
                AND c.conv_id <> OLD.conv_id
            ORDER BY c.conv_id FOR NO KEY UPDATE;
        BEGIN
            IF locks < 200 THEN
                PERFORM pg_advisory_xact_lock(pair_lock);
                PERFORM set_config('lapse.pair_locks', (locks + 1)::text, true);
            END IF;
            is_locked := true;
            PERFORM FROM public.conversations AS c
                WHERE c.owner_id = NEW.owner_id AND coalesce(lower(btrim(c.channel)), 'whatsapp'::text) = lapse.normalized_channel
                AND c.session_key = NEW.session_key AND c.status IN ('pending', 'progress', 'idle_timeout')
                AND c.conv_id <> OLD.conv_id
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
            EXISTS (
                    SELECT FROM (SELECT conv_id AS lapse_0 FROM (SELECT NEW.*) AS conversations) AS lapse_new,
                        public.conversations AS c
                    WHERE conv_id = lapse_new.lapse_0 AND c.conv_id <> OLD.conv_id
                )
        );
    EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
        has_conflict := false; -- a column of the application's index was renamed or dropped
    END;
    IF has_conflict OR NOT ends_others THEN
        RETURN NEW; -- an index of the application's refuses the row, or its ON CONFLICT applies, as without lapse
    END IF;
    moment := clock_timestamp();
    FOR other IN SELECT c.conv_id, c.status FROM public.conversations AS c
            WHERE c.owner_id = NEW.owner_id AND coalesce(lower(btrim(c.channel)), 'whatsapp'::text) = lapse.normalized_channel
                AND c.session_key = NEW.session_key AND c.status IN ('pending', 'progress', 'idle_timeout')
                AND c.conv_id <> OLD.conv_id
    LOOP
        WITH ended AS (
            UPDATE public.conversations AS c
            SET status = 'expired', ended_at = coalesce(c.ended_at, lapse.moment), version = c.version + 1
            WHERE c.conv_id = other.conv_id
            RETURNING c.owner_id, c.conv_id, c.version
        )
        INSERT INTO public.conversation_events
            (owner_id, conv_id, version, type, from_status, to_status, reason, actor, occurred_at)
        SELECT ended.owner_id, ended.conv_id, ended.version, 'expired', other.status, 'expired', 'duplicate_session',
            'application', lapse.moment
        FROM ended
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN NEW;
END
$$;
CREATE FUNCTION public.lapse_session_key(from_number text, to_number text, channel text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
    blanks CONSTANT text := $re$\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000$re$;
    trimmed CONSTANT text := '^[' || blanks || ']+|[' || blanks || ']+$';
    fillers CONSTANT text := '[' || blanks || $re$().\u00ad\u2010-\u2015\u2212/-]$re$;
    colons CONSTANT text := $re$^:|:$|:(?=:)|(?<=:):$re$;
    normalized_channel text COLLATE "C" := channel;
    is_whatsapp boolean := normalized_channel IS NULL OR normalized_channel = 'whatsapp';
    phone text;
    handle text COLLATE "C";
    scheme text COLLATE "C";
    rest text COLLATE "C";
    digits text COLLATE "C";
    one text COLLATE "C";
    other text COLLATE "C";
BEGIN
    IF NOT is_whatsapp THEN
        -- The sign of the kelvin is the one other character whose small letter is one of a to z.
        normalized_channel := regexp_replace(normalized_channel, trimmed, '', 'g');
        normalized_channel := lower(regexp_replace(normalized_channel, $re$\u212a$re$, 'k', 'g'));
        is_whatsapp := normalized_channel IN ('', 'whatsapp');
    END IF;
    FOR turn IN 1..2 LOOP
        handle := CASE turn WHEN 1 THEN from_number ELSE to_number END;
        IF handle ~ $re$^\+[1-9][0-9]{0,14}$$re$ THEN
            NULL; -- a phone number as it should be, on every channel
        ELSE
            handle := regexp_replace(coalesce(handle, ''), trimmed, '', 'g');
            IF length(handle) > 320 THEN -- no address; a key of any length would not fit into an index
                handle := left(handle, 64) || '#' || hashtextextended(handle, 0);
            END IF;
            -- Digits alone are a phone number on WhatsApp, and elsewhere a handle.
            phone := CASE WHEN is_whatsapp THEN $re$^\+?[1-9][0-9]{0,14}$$re$ ELSE $re$^\+[1-9][0-9]{0,14}$$re$ END;
            LOOP
                digits := regexp_replace(handle, fillers, '', 'g');
                IF digits ~ phone THEN
                    handle := '+' || ltrim(digits, '+');
                    EXIT;
                END IF;
                scheme := lower(substring(handle FROM $re$^([A-Za-z][A-Za-z0-9+.-]*):$re$));
                EXIT WHEN scheme IS NULL;
                rest := regexp_replace(substr(handle, length(scheme) + 2), trimmed, '', 'g');
                EXIT WHEN scheme <> CASE WHEN is_whatsapp THEN 'whatsapp' ELSE normalized_channel END
                    AND NOT (scheme IN ('whatsapp', 'tel', 'sms', 'mms', 'rcs')
                        AND regexp_replace(rest, fillers, '', 'g') ~ phone);
                handle := rest;
            END LOOP;
        END IF;
        IF is_whatsapp AND handle ~ $re$^\+5[245]$re$ THEN
            -- WhatsApp spells some numbers in two ways: Brazil's ninth digit, Mexico's 1, Argentina's 9.
            handle := CASE
                WHEN handle ~ $re$^\+55[1-9][0-9][6-9][0-9]{7}$$re$ THEN left(handle, 5) || '9' || substr(handle, 6)
                WHEN handle ~ $re$^\+5(21|49)[0-9]{10}$$re$ THEN left(handle, 3) || substr(handle, 5)
                ELSE handle
            END;
        END IF;
        IF turn = 1 THEN
            one := handle;
        ELSE
            other := handle;
        END IF;
    END LOOP;
    handle := least(one, other);
    other := greatest(one, other);
    IF handle ~ '[:%]' THEN
        handle := regexp_replace(replace(handle, '%', '%25'), colons, '%3A', 'g');
    END IF;
    IF other ~ '[:%]' THEN
        other := regexp_replace(replace(other, '%', '%25'), colons, '%3A', 'g');
    END IF;
    RETURN handle || '::' || other;
END
$_$;
CREATE FUNCTION public.lapse_stale_version() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    NEW.session_key := OLD.session_key;
    NEW.version := OLD.version;
    NEW.last_inbound_at := OLD.last_inbound_at;
    NEW.idle_check_at := OLD.idle_check_at;
    NEW.idle_timeout_seconds := OLD.idle_timeout_seconds;
    RETURN NEW;
END
$$;
CREATE FUNCTION public.set_updated_at() RETURNS trigger
    LANGUAGE plpgsql
    AS $$BEGIN NEW.updated_at := now(); RETURN NEW; END$$;
CREATE TABLE public.conversation_events (
    owner_id uuid NOT NULL,
    conv_id text NOT NULL,
    version bigint NOT NULL,
    type text NOT NULL,
    from_status text NOT NULL,
    to_status text NOT NULL,
    reason text,
    actor text,
    deadline timestamp with time zone,
    occurred_at timestamp with time zone NOT NULL,
    data jsonb DEFAULT '{}'::jsonb NOT NULL
);
CREATE TABLE public.conversations (
    conv_id text NOT NULL,
    owner_id uuid NOT NULL,
    user_id bigint,
    from_number text NOT NULL,
    to_number text NOT NULL,
    status text DEFAULT 'pending'::text,
    started_at timestamp with time zone DEFAULT now(),
    ended_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now(),
    expires_at timestamp with time zone,
    channel text DEFAULT 'whatsapp'::text,
    phone_number text,
    context jsonb DEFAULT '{}'::jsonb,
    metadata jsonb DEFAULT '{}'::jsonb,
    policy_id text,
    session_key text,
    version bigint DEFAULT 0 NOT NULL,
    last_inbound_at timestamp with time zone,
    idle_check_at timestamp with time zone DEFAULT (now() + '00:30:00'::interval) NOT NULL,
    idle_timeout_seconds bigint DEFAULT 1800 NOT NULL,
    CONSTRAINT ck_conversations_session_key CHECK ((session_key IS NOT NULL)),
    CONSTRAINT conversations_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'progress'::text, 'agent_closed'::text, 'support_closed'::text, 'user_closed'::text, 'expired'::text, 'failed'::text, 'idle_timeout'::text])))
)
WITH (fillfactor='85');
CREATE TABLE public.lapse_adoption (
    only_one boolean DEFAULT true NOT NULL,
    began_at timestamp with time zone DEFAULT now() NOT NULL,
    completed_at timestamp with time zone,
    keep text NOT NULL,
    idle_timeout_seconds bigint NOT NULL,
    before jsonb NOT NULL,
    CONSTRAINT lapse_adoption_only_one_check CHECK (only_one)
);
CREATE TABLE public.lapse_schema_version (
    version_num character varying(32) NOT NULL
);
INSERT INTO public.conversation_events VALUES ('ca524a7b-e5b6-fb4c-6868-fefc3b5d8457', '01JQ000000000000000000000C', 1, 'expired', 'pending', 'expired', 'duplicate_session', 'adopt', NULL, '2026-12-01 10:29:31.530045-03', '{"kept": "01JQ000000000000000000000D", "silent": true}');
INSERT INTO public.conversation_events VALUES ('2df29863-6115-3a1b-9481-bc3b66fa4cb7', '01JQ000000000000000000000E', 1, 'expired', 'pending', 'expired', 'duplicate_session', 'adopt', NULL, '2026-12-01 10:29:31.530045-03', '{"kept": "01JQ000000000000000000000F", "silent": true}');
INSERT INTO public.conversation_events VALUES ('a6d7313e-99ad-0a85-d712-b9d1b1b244d3', '01JQ0000000000000000000010', 1, 'expired', 'pending', 'expired', 'duplicate_session', 'adopt', NULL, '2026-12-01 10:29:31.530045-03', '{"kept": "01JQ0000000000000000000011", "silent": true}');
INSERT INTO public.conversation_events VALUES ('ab84e1e9-0c64-00eb-6175-5954f41b284e', '01JQ0000000000000000000012', 1, 'expired', 'pending', 'expired', 'duplicate_session', 'adopt', NULL, '2026-12-01 10:29:31.530045-03', '{"kept": "01JQ0000000000000000000013", "silent": true}');
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000001', '2e33e5ac-092c-57a9-d0a0-6869fcc83c71', 1, 'whatsapp:+5511900000000', 'whatsapp:+14155238886', 'support_closed', '2025-01-07 10:29:30.86801-03', '2025-01-07 12:29:30.86801-03', '2025-01-07 11:29:30.86801-03', '2025-01-08 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000000', 0, NULL, '2025-01-07 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000002', '4ef5ba0c-918c-537f-adba-2ada54e3dd68', 2, '+5511900000001', '+14155238886', 'user_closed', '2025-02-13 10:29:30.86801-03', '2025-02-13 12:29:30.86801-03', '2025-02-13 11:29:30.86801-03', '2025-02-14 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000001', 0, NULL, '2025-02-13 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000003', '4ef5ba0c-918c-537f-adba-2ada54e3dd68', 3, '+5511900000001', '+14155238886', 'expired', '2025-03-19 10:29:30.86801-03', '2025-03-19 12:29:30.86801-03', '2025-03-19 11:29:30.86801-03', '2025-03-20 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000001', 0, NULL, '2025-03-19 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000004', 'b1e3677c-d7c6-f633-e6c0-8037583c846f', 4, '+5511900000002', '+14155238886', 'failed', '2025-04-25 10:29:30.86801-03', '2025-04-25 12:29:30.86801-03', '2025-04-25 11:29:30.86801-03', '2025-04-26 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000002', 0, NULL, '2025-04-25 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000005', 'b1e3677c-d7c6-f633-e6c0-8037583c846f', 5, '+5511900000002', '+14155238886', 'agent_closed', '2025-06-01 10:29:30.86801-03', '2025-06-01 12:29:30.86801-03', '2025-06-01 11:29:30.86801-03', '2025-06-02 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000002', 0, NULL, '2025-06-01 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000006', '80a38342-3076-9696-2140-b56a785877ae', 6, '+5511900000003', '+14155238886', 'support_closed', '2025-07-07 10:29:30.86801-03', '2025-07-07 12:29:30.86801-03', '2025-07-07 11:29:30.86801-03', '2025-07-08 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000003', 0, NULL, '2025-07-07 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000007', '80a38342-3076-9696-2140-b56a785877ae', 7, '+5511900000003', '+14155238886', 'user_closed', '2025-08-13 10:29:30.86801-03', '2025-08-13 12:29:30.86801-03', '2025-08-13 11:29:30.86801-03', '2025-08-14 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000003', 0, NULL, '2025-08-13 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000008', 'b6faad50-5132-6390-f437-10c2dd66b15e', 8, '+5511900000004', '+14155238886', 'expired', '2025-09-19 10:29:30.86801-03', '2025-09-19 12:29:30.86801-03', '2025-09-19 11:29:30.86801-03', '2025-09-20 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000004', 0, NULL, '2025-09-19 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000009', 'b6faad50-5132-6390-f437-10c2dd66b15e', 9, '+5511900000004', '+14155238886', 'failed', '2025-10-25 10:29:30.86801-03', '2025-10-25 12:29:30.86801-03', '2025-10-25 11:29:30.86801-03', '2025-10-26 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000004', 0, NULL, '2025-10-25 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ000000000000000000000A', '9486ba2f-75d9-11e8-b02f-0c6d0f555d43', 10, '+5511900000005', '+14155238886', 'agent_closed', '2025-12-01 10:29:30.86801-03', '2025-12-01 12:29:30.86801-03', '2025-12-01 11:29:30.86801-03', '2025-12-02 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000005', 0, NULL, '2025-12-01 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ000000000000000000000B', '9486ba2f-75d9-11e8-b02f-0c6d0f555d43', 11, 'whatsapp:+5511900000005', 'whatsapp:+14155238886', 'progress', '2026-01-07 10:29:30.86801-03', NULL, '2026-01-07 11:29:30.86801-03', NULL, 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000005', 0, NULL, '2026-01-07 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ000000000000000000000D', 'ca524a7b-e5b6-fb4c-6868-fefc3b5d8457', 13, '+5511900000006', '+14155238886', 'progress', '2026-03-19 10:29:30.86801-03', NULL, '2026-03-19 11:29:30.86801-03', '2026-03-20 10:29:30.86801-03', NULL, NULL, '{}', '{}', NULL, '+14155238886::+5511900000006', 0, NULL, '2026-03-19 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ000000000000000000000F', '2df29863-6115-3a1b-9481-bc3b66fa4cb7', 15, '+5511900000007', '+14155238886', 'progress', '2026-06-01 10:29:30.86801-03', NULL, '2026-06-01 11:29:30.86801-03', '2026-06-02 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000007', 0, NULL, '2026-06-01 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000011', 'a6d7313e-99ad-0a85-d712-b9d1b1b244d3', 17, '+5511900000008', '+14155238886', 'progress', '2026-08-13 10:29:30.86801-03', NULL, '2026-08-13 11:29:30.86801-03', '2026-08-14 10:29:30.86801-03', 'whatsapp', NULL, NULL, '{}', NULL, '+14155238886::+5511900000008', 0, NULL, '2026-08-13 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ000000000000000000000C', 'ca524a7b-e5b6-fb4c-6868-fefc3b5d8457', 12, '+5511900000006', '+14155238886', 'expired', '2026-02-13 10:29:30.86801-03', '2026-12-01 10:29:31.530045-03', '2026-02-13 11:29:30.86801-03', '2026-02-14 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000006', 1, NULL, '2026-02-13 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ000000000000000000000E', '2df29863-6115-3a1b-9481-bc3b66fa4cb7', 14, '+5511900000007', '+14155238886', 'expired', '2026-04-25 10:29:30.86801-03', '2026-12-01 10:29:31.530045-03', '2026-04-25 11:29:30.86801-03', '2026-04-26 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000007', 1, NULL, '2026-04-25 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000010', 'a6d7313e-99ad-0a85-d712-b9d1b1b244d3', 16, '+5511900000008', '+14155238886', 'expired', '2026-07-07 10:29:30.86801-03', '2026-12-01 10:29:31.530045-03', '2026-07-07 11:29:30.86801-03', '2026-07-08 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000008', 1, NULL, '2026-07-07 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000012', 'ab84e1e9-0c64-00eb-6175-5954f41b284e', 18, '+5511900000009', '+14155238886', 'expired', '2026-09-19 10:29:30.86801-03', '2026-12-01 10:29:31.530045-03', '2026-09-19 11:29:30.86801-03', '2026-09-20 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000009', 1, NULL, '2026-09-19 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000013', 'ab84e1e9-0c64-00eb-6175-5954f41b284e', 19, '+5511900000009', '+14155238886', 'progress', '2026-10-25 10:29:30.86801-03', NULL, '2026-10-25 11:29:30.86801-03', '2026-10-26 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000009', 0, NULL, '2026-10-25 11:59:30.86801-03', 1800);
INSERT INTO public.conversations VALUES ('01JQ0000000000000000000014', '094d16c8-f719-c6cb-4a42-a1d5d90fcc62', 20, '+5511900000010', '+14155238886', 'pending', '2026-12-01 10:29:30.86801-03', NULL, '2026-12-01 11:29:30.86801-03', '2026-12-02 10:29:30.86801-03', 'whatsapp', NULL, '{}', '{}', NULL, '+14155238886::+5511900000010', 0, NULL, '2026-12-01 10:59:31.448648-03', 1800);
INSERT INTO public.lapse_adoption VALUES (true, '2026-12-01 10:29:31.431036-03', '2026-12-01 10:29:31.566402-03', 'newest', 1800, '{"export": null, "columns": {"version": "version", "session_key": "session_key", "idle_check_at": "idle_check_at", "last_inbound_at": "last_inbound_at", "idle_timeout_seconds": "idle_timeout_seconds"}, "options": [], "identity": "", "optional": [], "triggers": [{"name": "set_updated_at", "enabled": "O", "definition": "CREATE TRIGGER set_updated_at BEFORE UPDATE ON public.conversations FOR EACH ROW EXECUTE FUNCTION public.set_updated_at()"}]}');
INSERT INTO public.lapse_schema_version VALUES ('0004');
ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_pkey PRIMARY KEY (conv_id);
ALTER TABLE ONLY public.lapse_adoption
    ADD CONSTRAINT lapse_adoption_pkey PRIMARY KEY (only_one);
ALTER TABLE ONLY public.lapse_schema_version
    ADD CONSTRAINT lapse_schema_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.conversation_events
    ADD CONSTRAINT pk_conversation_events PRIMARY KEY (owner_id, conv_id, version);
CREATE INDEX idx_conversations_expires ON public.conversations USING btree (expires_at) WHERE (status = ANY (ARRAY['pending'::text, 'progress'::text]));
CREATE INDEX ix_conversations_ended_at_closed ON public.conversations USING btree (ended_at) WHERE (status = ANY (ARRAY['agent_closed'::text, 'support_closed'::text, 'user_closed'::text, 'expired'::text, 'failed'::text]));
CREATE INDEX ix_conversations_expires_at_open ON public.conversations USING btree (expires_at) WHERE (status = ANY (ARRAY['pending'::text, 'progress'::text, 'idle_timeout'::text]));
CREATE INDEX ix_conversations_idle_check_at_active ON public.conversations USING btree (idle_check_at) WHERE (status = ANY (ARRAY['pending'::text, 'progress'::text]));
CREATE INDEX ix_conversations_idle_timeout_seconds_active ON public.conversations USING btree (idle_timeout_seconds) WHERE (status = ANY (ARRAY['pending'::text, 'progress'::text]));
CREATE INDEX ix_conversations_session_history_not_open ON public.conversations USING btree (owner_id, COALESCE(lower(btrim(channel)), 'whatsapp'::text), session_key, started_at) WHERE (status <> ALL (ARRAY['pending'::text, 'progress'::text, 'idle_timeout'::text]));
CREATE UNIQUE INDEX uq_conversations_open_session ON public.conversations USING btree (owner_id, COALESCE(lower(btrim(channel)), 'whatsapp'::text), session_key) WHERE (status = ANY (ARRAY['pending'::text, 'progress'::text, 'idle_timeout'::text]));
CREATE TRIGGER aa_lapse_ended BEFORE UPDATE OF status ON public.conversations FOR EACH ROW WHEN (((old.status = ANY (ARRAY['idle_timeout'::text, 'agent_closed'::text, 'support_closed'::text, 'user_closed'::text, 'expired'::text, 'failed'::text])) AND (new.status = ANY (ARRAY['expired'::text, 'idle_timeout'::text])) AND ((new.status <> old.status) OR (new.ended_at IS DISTINCT FROM old.ended_at)) AND (NOT ((old.status = 'idle_timeout'::text) AND (new.status = 'expired'::text))))) EXECUTE FUNCTION public.lapse_already_ended();
CREATE TRIGGER aa_lapse_stale BEFORE UPDATE ON public.conversations FOR EACH ROW WHEN ((new.version < old.version)) EXECUTE FUNCTION public.lapse_stale_version();
CREATE TRIGGER set_updated_at BEFORE UPDATE ON public.conversations FOR EACH ROW WHEN ((NOT ((((new.session_key IS DISTINCT FROM old.session_key) OR (new.version IS DISTINCT FROM old.version)) OR (new.idle_check_at IS DISTINCT FROM old.idle_check_at)) OR (new.idle_timeout_seconds IS DISTINCT FROM old.idle_timeout_seconds)))) EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER zz_lapse_insert BEFORE INSERT ON public.conversations FOR EACH ROW EXECUTE FUNCTION public.lapse_before_insert();
ALTER TABLE public.conversations ENABLE ALWAYS TRIGGER zz_lapse_insert;
CREATE TRIGGER zz_lapse_update BEFORE UPDATE ON public.conversations FOR EACH ROW WHEN (((new.session_key IS NULL) OR ((((old.owner_id IS DISTINCT FROM new.owner_id) OR (old.from_number IS DISTINCT FROM new.from_number)) OR (old.to_number IS DISTINCT FROM new.to_number)) OR (old.channel IS DISTINCT FROM new.channel)) OR ((new.status = ANY (ARRAY['pending'::text, 'progress'::text, 'idle_timeout'::text])) AND ((old.status = ANY (ARRAY['pending'::text, 'progress'::text, 'idle_timeout'::text])) IS NOT TRUE)))) EXECUTE FUNCTION public.lapse_before_update();
ALTER TABLE public.conversations ENABLE ALWAYS TRIGGER zz_lapse_update;
ALTER TABLE public.conversation_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.lapse_adoption ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.lapse_schema_version ENABLE ROW LEVEL SECURITY;
