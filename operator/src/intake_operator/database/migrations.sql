-- What has been run in this DB1, and with what content: a file that changed after it ran is refused, not run again.
CREATE SCHEMA IF NOT EXISTS intake_operator;
REVOKE ALL ON SCHEMA intake_operator FROM PUBLIC;
CREATE TABLE IF NOT EXISTS intake_operator.migrations (
  name       text        PRIMARY KEY,
  checksum   text        NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);
