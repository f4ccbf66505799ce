-- Blobs, and what is known of each without reading it.
--
-- Times are seconds since the epoch as float8, by the clock of the server: they are compared for equality by
-- those who read them, and Infinity is a time like any other.

CREATE TABLE agentref_meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    store_id varchar(15) NOT NULL COLLATE "C",
    epoch bigint NOT NULL DEFAULT 0
);

INSERT INTO agentref_meta (store_id)
VALUES ('pg-' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12));

CREATE TABLE agentref_blob (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    data bytea NOT NULL,
    tail bytea, -- the last bytes, if there are more than in data
    stored_size integer NOT NULL,
    head smallint NOT NULL, -- the first byte; -1 if there is none
    touched_at double precision NOT NULL,
    expires_at double precision NOT NULL DEFAULT 'Infinity',
    condemned_at double precision
);

-- It is compressed already. (In CREATE TABLE, this is known from PostgreSQL 16 on.)
ALTER TABLE agentref_blob ALTER COLUMN data SET STORAGE EXTERNAL, ALTER COLUMN tail SET STORAGE PLAIN;
