-- Events out: written with their cause, delivered later, each to one address.
CREATE TABLE letters (
  id      TEXT NOT NULL PRIMARY KEY,
  url     TEXT NOT NULL,
  user_id TEXT NOT NULL,
  number  INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  content TEXT NOT NULL,
  at      INTEGER NOT NULL,
  due_at  INTEGER NOT NULL,
  state   TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
  tries   INTEGER NOT NULL,
  answer  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX letters_due ON letters (due_at) WHERE state = 'pending';
CREATE INDEX letters_in_order ON letters (url, user_id, number, id) WHERE state = 'pending';
CREATE INDEX letters_ended ON letters (state, due_at) WHERE state <> 'pending';

-- Who does what only one process may do at a time, until when.
CREATE TABLE turns_taken (
  name   TEXT NOT NULL PRIMARY KEY,
  holder TEXT NOT NULL,
  until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
