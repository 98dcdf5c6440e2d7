-- Who is signed in to the console: the hash of a cookie, and the key that was shown. Never copied with a ledger.
CREATE TABLE sessions (
  hash       BLOB   NOT NULL PRIMARY KEY,
  key_id     TEXT    NOT NULL,
  created_at INTEGER NOT NULL,
  seen_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
