-- What keeps blobs alive beyond their own lives. Names are in the order of their code points.

CREATE SEQUENCE agentref_alias_version AS bigint;

CREATE TABLE agentref_alias (
    name text PRIMARY KEY COLLATE "C",
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    codec text NOT NULL COLLATE "C",
    size bigint NOT NULL,
    version bigint NOT NULL,
    expires_at double precision NOT NULL
);

-- The owner stands in each row: two tables would be two indexes, and twice the locks.
CREATE TABLE agentref_pin (
    owner text NOT NULL COLLATE "C",
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    expires_at double precision NOT NULL,
    PRIMARY KEY (owner, digest)
);

-- Lets an heir keep what a parent keeps for ever of these digests, which stand one behind the other: of how many
-- that is so. The lock keeps whoever would take the parent's pins away until this is committed. The commit does
-- not wait for the disk: his will, and writes all that the log holds before it.
--
-- (A function, because a session keeps its plans, under a pooler as well.)
CREATE FUNCTION agentref_inherit(p_heir text, p_parent text, p_digests bytea) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    given integer := 0;
    setting text;
BEGIN
    FOR i IN 0 .. octet_length(p_digests) / 32 - 1 LOOP
        INSERT INTO agentref_pin (owner, digest, expires_at)
        SELECT p_heir, p.digest, p.expires_at FROM agentref_pin AS p
        WHERE p.owner = p_parent COLLATE "C" AND p.digest = substr(p_digests, 32 * i + 1, 32)
            AND p.expires_at = 'infinity' FOR KEY SHARE
        ON CONFLICT (owner, digest) DO UPDATE SET expires_at = EXCLUDED.expires_at;
        IF FOUND THEN
            given := given + 1;
        END IF;
    END LOOP;
    IF given > 0 THEN
        setting := set_config('synchronous_commit', 'off', true);  -- PERFORM would be a query
    END IF;
    RETURN given;
END $$;
