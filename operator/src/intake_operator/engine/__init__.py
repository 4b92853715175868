"""I/O with databases: DB1, the engine, and DB2, the ledger."""
