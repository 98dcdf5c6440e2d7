-- Refresh tokens: what came of one registration, and which secret is good now. Secrets are kept as hashes.
CREATE TABLE families (
  id           text NOT NULL PRIMARY KEY,
  user_id      text NOT NULL,
  seed         bytea NOT NULL,
  current      bytea NOT NULL,
  spent        bytea,
  spent_key    bytea,
  created_at   bigint NOT NULL,
  refreshed_at bigint NOT NULL,
  expires_at   bigint NOT NULL,
  revoked_at   bigint
);

CREATE INDEX families_of_user ON families (user_id);
