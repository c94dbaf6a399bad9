"""The session key of a pair of addresses, computed by PostgreSQL for rows that the application writes."""

from __future__ import annotations

from lapse.addresses import MAX_ADDRESS_LENGTH
from lapse.adoption.names import KEY_FUNCTION, Names

# Patterns are dollar-quoted and each variable has COLLATE "C": neither a session's settings nor the collation of the
# application's columns may change what they match. The channel has a name of its own: `channel` is the parameter.
_SESSION_KEY = r"""
CREATE OR REPLACE FUNCTION {function}(from_number text, to_number text, channel text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $lapse$
-- The key that lapse itself computes: both addresses normalized, sorted, joined with '::'. It never fails: a text that
-- is no address has a key, too. One rule is lapse's only: the zero in '+44 (0)20 …' needs a list of all countries.
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
        IF handle ~ $re$^\+[1-9][0-9]{{0,14}}$$re$ THEN
            NULL; -- a phone number as it should be, on every channel
        ELSE
            handle := regexp_replace(coalesce(handle, ''), trimmed, '', 'g');
            IF length(handle) > {longest} THEN -- no address; a key of any length would not fit into an index
                handle := left(handle, 64) || '#' || hashtextextended(handle, 0);
            END IF;
            -- Digits alone are a phone number on WhatsApp, and elsewhere a handle.
            phone := CASE WHEN is_whatsapp THEN $re$^\+?[1-9][0-9]{{0,14}}$$re$ ELSE $re$^\+[1-9][0-9]{{0,14}}$$re$ END;
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
                WHEN handle ~ $re$^\+55[1-9][0-9][6-9][0-9]{{7}}$$re$ THEN left(handle, 5) || '9' || substr(handle, 6)
                WHEN handle ~ $re$^\+5(21|49)[0-9]{{10}}$$re$ THEN left(handle, 3) || substr(handle, 5)
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
$lapse$
"""


def session_key_function(names: Names) -> str:
    """Return the statement that creates `lapse_session_key(from_number, to_number, channel)`.

    The function returns what `lapse.addresses.session_key` returns, with two differences. It never fails: a pair that
    lapse would refuse has a key, too, and a channel that is NULL or empty is WhatsApp. And it keeps the zero in
    `+44 (0)20 …`, since only `phonenumbers` knows in which countries it is not part of the number.
    """
    return _SESSION_KEY.format(function=names.qualified(KEY_FUNCTION), longest=MAX_ADDRESS_LENGTH).strip()
