-- Events out: written with their cause, delivered later, each to one address.
CREATE TABLE letters (
  id      text NOT NULL PRIMARY KEY,
  url     text NOT NULL,
  user_id text NOT NULL,
  number  bigint NOT NULL,
  kind    text NOT NULL,
  content text NOT NULL,
  at      bigint NOT NULL,
  due_at  bigint NOT NULL,
  state   text NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
  tries   bigint NOT NULL,
  answer  text NOT NULL
);

CREATE INDEX letters_due ON letters (due_at) WHERE state = 'pending';
CREATE INDEX letters_in_order ON letters (url, user_id, number, id) WHERE state = 'pending';
CREATE INDEX letters_ended ON letters (state, due_at) WHERE state <> 'pending';

-- Who does what only one process may do at a time, until when.
CREATE TABLE turns_taken (
  name   text NOT NULL PRIMARY KEY,
  holder text NOT NULL,
  until  bigint NOT NULL
);

-- As the owner of the table: servers need no right to delete anything.
CREATE FUNCTION sweep_letters(delivered_before bigint, dead_before bigint, most integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  DELETE FROM letters WHERE id IN (
    SELECT id FROM letters
    WHERE (state = 'delivered' AND due_at < delivered_before) OR (state = 'dead' AND due_at < dead_before)
    LIMIT most FOR UPDATE SKIP LOCKED)
$$;

CREATE TYPE letter_row AS (
  id text, url text, user_id text, number bigint, kind text, content text, at bigint, due_at bigint, state text,
  tries bigint, answer text
);
