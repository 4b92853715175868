"""The mutants: one textual change of a SQL file each, and the test that must fail on it.

Each is a mistake that was made once, or that a simplification could make. A change that no longer applies is an error,
so that this list stays up to date.
"""

from tests.sql.mutants import bridge, claims, database, holds, inventory, ledger

MUTANTS = {
    **claims.MUTANTS,
    **inventory.MUTANTS,
    **holds.MUTANTS,
    **bridge.MUTANTS,
    **database.MUTANTS,
    **ledger.MUTANTS,
}
