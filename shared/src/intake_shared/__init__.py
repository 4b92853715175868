"""What the programs of intake-engine must say alike: connections, URIs, SQLSTATEs, claims, logs.

No state and no rule of claiming: those are in the SQL, which is the contract between the programs.
"""
