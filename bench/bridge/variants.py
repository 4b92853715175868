"""The variants of the bridge's benchmark."""

from typing import Final

TITLES: Final = {
    "ledger": "one set-based ledger insert, 500 rows a call",
    "bridge_1": "queue to ledger, one process",
    "bridge_2": "queue to ledger, two processes",
    "naive": "the naive loop: read 100, per message one ledger call and one delete",
    "bridge_1_flush": "queue to ledger, one process; a flush takes 1 ms longer",
    "naive_flush": "the naive loop; a flush takes 1 ms longer",
    "slow_1": "one process, a ledger that takes 100 ms a call",
    "slow_2": "two processes, the same ledger",
    "single": "one process, validation one call a claim",
    "batch": "one process, validation one call a batch",
    "aiohttp": "aiohttp alone",
    "ours": "the bridge's caller",
    "read": "read_batch of 100",
    "limit": "maxPerSecond",
    "mean": "commits a second, from the first to the last",
    "busiest": "commits in the busiest second",
}
