-- Artifacts, by whom they are leased, and the feed of what was committed.

CREATE TABLE agentref_artifact (
    key bytea PRIMARY KEY,
    revision bigint NOT NULL CHECK (revision > 0), -- drawn by chance for each transaction that changes the row
    version bigint NOT NULL,
    epoch bigint NOT NULL,
    fence bigint NOT NULL,
    digest bytea CHECK (octet_length(digest) = 32),
    codec text COLLATE "C",
    size bigint,
    backend_id text COLLATE "C",
    writer text NOT NULL COLLATE "C",
    at double precision NOT NULL,
    until double precision, -- when the first of the leases ends
    leases bytea
) WITH (fillfactor = 50); -- so that a row which changes all the time is rewritten in its own page

CREATE INDEX agentref_artifact_until ON agentref_artifact (until) WHERE until IS NOT NULL;

-- Numbers are drawn while the rows are locked, one at a time: their order is that of the commits of a key.
CREATE SEQUENCE agentref_change_id AS bigint CACHE 1;

CREATE TABLE agentref_change (
    id bigint PRIMARY KEY,
    xid bigint NOT NULL, -- of the transaction, never of a savepoint in it
    at double precision NOT NULL,
    entry bytea NOT NULL
);

CREATE INDEX agentref_change_xid ON agentref_change (xid);

-- Of which server's history it is; and what was dropped: what is below floor_next and not in floor_open.
CREATE TABLE agentref_feed (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    table_id varchar(15) NOT NULL COLLATE "C",
    life varchar(8) NOT NULL COLLATE "C",
    system bigint NOT NULL,
    timeline bigint NOT NULL,
    floor_next bigint NOT NULL DEFAULT 1,
    floor_open bigint[] NOT NULL DEFAULT '{}'
);

INSERT INTO agentref_feed (table_id, life, system, timeline)
SELECT 'pg-' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12), substr(gen_random_uuid()::text, 1, 8),
    system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint
FROM pg_control_system();

-- Let one row follow another, if that is the one that stands there, and the time is right. If not, the row that
-- stands there is returned. A function, because its statements are planned once in a session, and because each of
-- them sees what was committed before it began.
CREATE FUNCTION agentref_swap_one(
    p_key bytea, p_expected bigint, p_not_before double precision, p_deadline double precision,
    p_revision bigint, p_version bigint, p_epoch bigint, p_fence bigint,
    p_digest bytea, p_codec text, p_size bigint, p_backend_id text, p_writer text,
    p_at double precision, p_until double precision, p_leases bytea, p_entry bytea,
    OUT applied boolean, OUT clock double precision, OUT key bytea,
    OUT revision bigint, OUT version bigint, OUT epoch bigint, OUT fence bigint,
    OUT digest bytea, OUT codec text, OUT size bigint, OUT backend_id text, OUT writer text,
    OUT at double precision, OUT leases bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    IF p_deadline < 'infinity' AND p_expected > 0 THEN
        -- The row may have to be waited for, and a deadline that passes meanwhile has passed.
        PERFORM FROM agentref_artifact AS a WHERE a.key = p_key FOR NO KEY UPDATE;
    END IF;
    clock := extract(epoch FROM clock_timestamp());
    applied := clock >= p_not_before AND clock < p_deadline;
    IF applied THEN
        IF p_expected > 0 THEN
            UPDATE agentref_artifact AS a
            SET revision = p_revision, version = p_version, epoch = p_epoch, fence = p_fence,
                digest = p_digest, codec = p_codec, size = p_size, backend_id = p_backend_id,
                writer = p_writer, at = p_at, until = p_until, leases = p_leases
            WHERE a.key = p_key AND a.revision = p_expected;
        ELSE
            INSERT INTO agentref_artifact VALUES (
                p_key, p_revision, p_version, p_epoch, p_fence, p_digest, p_codec, p_size, p_backend_id,
                p_writer, p_at, p_until, p_leases
            ) ON CONFLICT DO NOTHING;
        END IF;
        applied := FOUND;
    END IF;
    IF NOT applied THEN
        SELECT a.key, a.revision, a.version, a.epoch, a.fence, a.digest, a.codec, a.size, a.backend_id,
            a.writer, a.at, a.leases
        INTO key, revision, version, epoch, fence, digest, codec, size, backend_id, writer, at, leases
        FROM agentref_artifact AS a WHERE a.key = p_key;
        clock := extract(epoch FROM clock_timestamp());
    ELSIF p_entry IS NOT NULL THEN
        INSERT INTO agentref_change
        VALUES (nextval('agentref_change_id'), pg_current_xact_id()::text::bigint, p_at, p_entry);
    END IF;
END $$;

-- The same for many rows, all of them or none; a row whose new revision is NULL only has to stand there.
CREATE FUNCTION agentref_swap_many(
    p_keys bytea[], p_expected bigint[], p_not_before double precision, p_deadline double precision,
    p_revision bigint[], p_version bigint[], p_epoch bigint[], p_fence bigint[],
    p_digest bytea[], p_codec text[], p_size bigint[], p_backend_id text[], p_writer text[],
    p_at double precision[], p_until double precision[], p_leases bytea[],
    p_entry bytea, p_entry_at double precision
) RETURNS TABLE (
    applied boolean, clock double precision, key bytea,
    revision bigint, version bigint, epoch bigint, fence bigint,
    digest bytea, codec text, size bigint, backend_id text, writer text,
    at double precision, leases bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    done boolean;
    moment double precision;
    same bigint;
    fresh bigint;
    made bytea[];
BEGIN
    -- First the rows that are there, in the order of keys, then those that are not: nobody waits in a circle.
    SELECT count(*) FILTER (WHERE l.revision = w.expected), count(*) FILTER (WHERE w.expected = 0)
    INTO same, fresh
    FROM unnest(p_keys, p_expected) AS w (key, expected)
    LEFT JOIN (
        SELECT a.key, a.revision FROM agentref_artifact AS a
        WHERE a.key = ANY (p_keys) ORDER BY a.key FOR NO KEY UPDATE
    ) AS l ON l.key = w.key;
    moment := extract(epoch FROM clock_timestamp());
    done := moment >= p_not_before AND moment < p_deadline AND same + fresh = cardinality(p_keys);
    IF done AND fresh > 0 THEN
        WITH new AS (
            INSERT INTO agentref_artifact AS n
            SELECT w.key, w.revision, w.version, w.epoch, w.fence, w.digest, w.codec, w.size, w.backend_id,
                w.writer, w.at, w.until, w.leases
            FROM unnest(
                p_keys, p_expected, p_revision, p_version, p_epoch, p_fence, p_digest, p_codec, p_size,
                p_backend_id, p_writer, p_at, p_until, p_leases
            ) AS w (
                key, expected, revision, version, epoch, fence, digest, codec, size,
                backend_id, writer, at, until, leases
            )
            WHERE w.expected = 0 ORDER BY w.key
            ON CONFLICT DO NOTHING RETURNING n.key
        )
        SELECT coalesce(array_agg(new.key), '{}') INTO made FROM new;
        IF cardinality(made) < fresh OR extract(epoch FROM clock_timestamp()) >= p_deadline THEN
            done := false;
            DELETE FROM agentref_artifact AS a WHERE a.key = ANY (made); -- our own, which nobody has seen
        END IF;
    END IF;
    IF done AND same > 0 THEN
        UPDATE agentref_artifact AS a
        SET revision = w.revision, version = w.version, epoch = w.epoch, fence = w.fence,
            digest = w.digest, codec = w.codec, size = w.size, backend_id = w.backend_id,
            writer = w.writer, at = w.at, until = w.until, leases = w.leases
        FROM unnest(
            p_keys, p_expected, p_revision, p_version, p_epoch, p_fence, p_digest, p_codec, p_size,
            p_backend_id, p_writer, p_at, p_until, p_leases
        ) AS w (
            key, expected, revision, version, epoch, fence, digest, codec, size,
            backend_id, writer, at, until, leases
        )
        WHERE a.key = w.key AND w.expected > 0 AND w.revision IS NOT NULL;
    END IF;
    IF NOT done THEN
        RETURN QUERY
        SELECT false, extract(epoch FROM clock_timestamp())::double precision, a.key, a.revision,
            a.version, a.epoch, a.fence, a.digest, a.codec, a.size, a.backend_id, a.writer, a.at, a.leases
        FROM (SELECT) AS always LEFT JOIN agentref_artifact AS a ON a.key = ANY (p_keys);
        RETURN;
    END IF;
    IF p_entry IS NOT NULL THEN
        INSERT INTO agentref_change
        VALUES (nextval('agentref_change_id'), pg_current_xact_id()::text::bigint, p_entry_at, p_entry);
    END IF;
    applied := true;
    clock := moment;
    RETURN NEXT;
END $$;
