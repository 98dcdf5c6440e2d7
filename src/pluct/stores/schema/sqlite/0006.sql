-- Refresh tokens: what came of one registration, and which secret is good now. Secrets are kept as hashes.
CREATE TABLE families (
  id           TEXT NOT NULL PRIMARY KEY,
  user_id      TEXT NOT NULL,
  seed         BLOB NOT NULL,
  current      BLOB NOT NULL,
  spent        BLOB,
  spent_key    BLOB,
  created_at   INTEGER NOT NULL,
  refreshed_at INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL,
  revoked_at   INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX families_of_user ON families (user_id);
