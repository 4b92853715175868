"""The account of a sale: the answers that the crowd recorded, compared with the rows of the ledger by account.sql."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import sql
from tests.e2e.kube import Kube

QUERIES = Path(__file__).with_name("account.sql")

type Answers = Sequence[Mapping[str, object]]
type Psql = Callable[[str], str]
"""Runs an SQL script in the ledger with psql; fields separated by `|`."""


@dataclass(frozen=True)
class Account:
    """Acknowledged claims, and how many of them were settled in each way."""

    acknowledged: int
    committed: int
    voided: int
    released: int
    dead: int
    duplicated: int

    @property
    def lost(self) -> int:
        """Acknowledged claims that were not settled and are no dead letters."""
        return self.acknowledged - self.committed - self.voided - self.released - self.dead

    def line(self) -> str:
        """The last line of the demo."""
        return (
            f"acknowledged={self.acknowledged} committed={self.committed} voided={self.voided} "
            f"released={self.released} dead={self.dead} lost={self.lost} duplicated={self.duplicated}"
        )


def of_pool(kube: Kube, pool: str, answers: Answers, dead: int = 0) -> Account:
    """The account of a pool. `dead` is the number of its dead letters, which only DB1 has."""
    return of_pool_with(_psql(kube), pool, answers, dead)


def violations(kube: Kube, pool: str, answers: Answers) -> str:
    """I1 to I4 and I7 for the acknowledged claims: a line for each violation, or nothing."""
    return violations_with(_psql(kube), pool, answers)


def of_pool_with(psql: Psql, pool: str, answers: Answers, dead: int = 0) -> Account:
    """`of_pool` for any way to run psql in the ledger."""
    query = "SELECT acknowledged, committed, voided, released, duplicated FROM settlement;"
    acknowledged, committed, voided, released, duplicated = map(int, psql(_script(pool, answers, query)).split("|"))
    return Account(acknowledged, committed, voided, released, dead, duplicated)


def violations_with(psql: Psql, pool: str, answers: Answers) -> str:
    """`violations` for any way to run psql in the ledger."""
    return psql(_script(pool, answers, "SELECT invariant, detail FROM violation ORDER BY 1, 2;"))


def ledger_counts(kube: Kube, pool: str) -> tuple[int, int]:
    """Committed and voided rows of a pool, whether they were acknowledged or not."""
    states = sql.in_ledger(kube, f"SELECT state FROM ledger.claims WHERE pool_id = '{pool}'").splitlines()
    return states.count("committed"), states.count("voided")


def order_of_several_seats(kube: Kube, pool: str) -> str:
    """One claim as the ledger has it: its slots, what the validator added, and the order number."""
    query = (
        "SELECT format('slots %s, payment id %s, order number %s', string_agg(s.slot_no::text, ' '),"
        " c.validation ->> 'payment_id', c.receipt ->> 'order_no')"
        f" FROM ledger.claims c JOIN ledger.sold_slots s USING (claim_id) WHERE c.pool_id = '{pool}'"
        " GROUP BY c.claim_id HAVING count(*) > 2 ORDER BY c.claim_id LIMIT 1"
    )
    found = sql.in_ledger(kube, query)
    assert re.fullmatch(r"slots \d+( \d+)+, payment id pay-[0-9a-f]{8}, order number \d+", found), (
        f"no order of several seats with payment id and order number: {found!r}"
    )
    return found


def outcomes(answers: Answers) -> Counter[object]:
    """How often each outcome was answered."""
    return Counter(answer["outcome"] for answer in answers)


def _psql(kube: Kube) -> Psql:
    return lambda script: sql.in_ledger(kube, script)


def _script(pool: str, answers: Answers, query: str) -> str:
    # COPY's text format: a backslash would be an escape. JSON of plain ids has none.
    lines = "\n".join(json.dumps(answer).replace("\\", "\\\\") for answer in answers)
    load = f"CREATE TEMP TABLE record (line jsonb);\nCOPY record FROM STDIN;\n{lines}\n\\.\n"
    return f"\\set pool '{pool}'\n{load}{QUERIES.read_text()}\n{query}\n"
