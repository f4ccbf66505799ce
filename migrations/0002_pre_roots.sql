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
