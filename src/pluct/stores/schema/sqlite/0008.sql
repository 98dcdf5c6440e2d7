-- What happened when: one row per process for each minute (two days) and each hour (two years).
CREATE TABLE sums (
  step    TEXT NOT NULL,
  at      INTEGER NOT NULL,
  process TEXT NOT NULL,
  tally   TEXT NOT NULL,
  PRIMARY KEY (step, at, process)
) STRICT, WITHOUT ROWID;
