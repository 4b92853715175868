"""Mutants of the reference ledger."""

from tests.sql.mutants.mutant import Mutant

LEDGER = "0001_ledger.sql"

MUTANTS = {
    "a second seat without the first": Mutant(
        LEDGER,
        "AND jsonb_array_length(r.seats)\n            > (SELECT count(*) FROM ledger.sold_slots",
        "AND NOT EXISTS (SELECT FROM ledger.sold_slots",
        "test_a_claim_with_a_sold_seat_leaves_nothing_behind",
    ),
    "a refused claim keeps its other seats": Mutant(
        LEDGER,
        "        DELETE FROM ledger.sold_slots s WHERE s.claim_id = ANY (refused);\n",
        "",
        "test_its_fate_is_open",
    ),
    "refused by a refused claim": Mutant(
        LEDGER,
        "    IF cardinality(refused) > 1 THEN\n",
        "    IF false THEN\n",
        "test_a_refused_claim_stands_in_the_way_of_no_other",
    ),
    "a receipt lost by a redelivery": Mutant(
        LEDGER,
        "ELSE k.outcome END, k.receipt\n",
        "ELSE k.outcome END, CASE WHEN n.claim_id IS NOT NULL THEN k.receipt END\n",
        "test_a_redelivery_gets_the_receipt_of_the_first_call",
    ),
    "the receipt of another claim": Mutant(
        LEDGER,
        "CASE WHEN k.outcome = 'committed' THEN c.receipt END",
        "c.receipt",
        "test_only_a_sale_has_one",
    ),
    "a part of a claim is the same claim": Mutant(
        LEDGER,
        "AND ARRAY(\n"
        "                SELECT concat_ws(' ', s.slot_no, s.resource_id) FROM ledger.sold_slots s\n"
        "                WHERE s.claim_id = c.claim_id ORDER BY 1)\n"
        "            IS DISTINCT FROM ARRAY(",
        "AND NOT ARRAY(\n"
        "                SELECT concat_ws(' ', s.slot_no, s.resource_id) FROM ledger.sold_slots s\n"
        "                WHERE s.claim_id = c.claim_id ORDER BY 1)\n"
        "            @> ARRAY(",
        "test_i4_a_known_claim_with_fewer_seats_is_a_conflict",
    ),
    "a claim without seats is sold": Mutant(
        LEDGER,
        "    IF fewest < 1 THEN\n",
        "    IF false THEN\n",
        "test_a_claim_without_seats_sells_nothing_and_takes_nothing",
    ),
    "claims are locked in any order": Mutant(
        LEDGER,
        "        ORDER BY i.claim_id\n        ON CONFLICT",
        "        ON CONFLICT",
        "test_claims_are_locked_in_their_order",
    ),
    "slots are locked in any order": Mutant(
        LEDGER,
        "        ORDER BY 1, 2, 3\n        ON CONFLICT",
        "        ON CONFLICT",
        "test_slots_are_locked_in_their_order",
    ),
    "a trial keeps its locks": Mutant(
        LEDGER,
        "            RAISE EXCEPTION USING ERRCODE = 'LG001', MESSAGE = 'this claim can be written';\n",
        "            good := good || claim;\n",
        "test_no_claim_that_is_tried_beside_a_bad_one_keeps_a_lock",
    ),
}
