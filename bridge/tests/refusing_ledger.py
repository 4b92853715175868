"""A ledger that refuses some claims, and a change that makes it refuse every claim."""

from typing import Final, LiteralString

# A function without a handler: what the table refuses is an error of the whole call.
RAISING: Final[LiteralString] = """
CREATE TABLE sold (claim_id uuid PRIMARY KEY, user_id text CONSTRAINT welcome CHECK (user_id !~ '^bad'));
CREATE FUNCTION finalize_transaction(claim jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sold (claim_id, user_id) VALUES ((claim ->> 'claim_id')::uuid, claim ->> 'user_id')
    ON CONFLICT DO NOTHING;
    RETURN CASE WHEN FOUND THEN 'committed' ELSE 'duplicate' END;
END $$;
"""
# A change of the ledger during the sale, and how it is undone.
BREAKS: Final[list[LiteralString]] = [
    "ALTER TABLE sold ADD COLUMN till text NOT NULL DEFAULT 'a'",
    "ALTER TABLE sold ALTER till DROP DEFAULT",
]
