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

CREATE INDEX agentref_alias_mortal ON agentref_alias (expires_at) WHERE expires_at < 'Infinity';

CREATE SEQUENCE agentref_owner_id AS bigint;

CREATE TABLE agentref_owner (
    id bigint PRIMARY KEY DEFAULT nextval('agentref_owner_id'),
    name text NOT NULL UNIQUE COLLATE "C"
);

-- A pin may come while its owner goes: then it goes, too.
CREATE TABLE agentref_pin (
    owner_id bigint NOT NULL REFERENCES agentref_owner ON DELETE CASCADE,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    expires_at double precision NOT NULL,
    PRIMARY KEY (owner_id, digest)
);

CREATE INDEX agentref_pin_mortal ON agentref_pin (expires_at) WHERE expires_at < 'Infinity';
