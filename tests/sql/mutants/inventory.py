"""Mutants of the inventory, of its rebuild, and of withheld slots."""

from tests.sql.mutants.mutant import Mutant

INVENTORY = "0005_inventory.sql"
SEED = "0006_seed.sql"
NUMBERS = "0004_numbers.sql"
DEAD_LETTERS = "0012_dead_letters.sql"
WITHHELD = "0021_withheld.sql"

MUTANTS = {
    "acknowledgement overlaps the rebuild": Mutant(
        SEED,
        "    PERFORM intake_private.lock_exclusively('intake.claimed_slots');\n",
        "",
        "test_an_acknowledgement_during_a_rebuild_is_not_lost",
    ),
    "dead letters keep no slot": Mutant(
        SEED,
        "            FROM intake.intents m WHERE m.message ->> 'pool_id' = config.pool_id) x\n",
        "            FROM intake.intents m WHERE m.message ->> 'pool_id' = config.pool_id AND m.place <> 'dead') x\n",
        "test_i6_a_rebuild_restores_every_claimed_slot_and_every_resource_id",
    ),
    "rebuild makes new ids": Mutant(
        SEED,
        "SELECT v.pool_no, v.slot_no, v.resource_id, v.label, v.attributes FROM intake.inventory v",
        "SELECT v.pool_no, v.slot_no, gen_random_uuid(), v.label, v.attributes FROM intake.inventory v",
        "test_a_rebuild_gives_seats_of_ones_own_their_ids_and_labels",
    ),
    "label stocked as it is written": Mutant(
        INVENTORY,
        "SELECT normalize(l.label, NFC) FROM",
        "SELECT l.label FROM",
        "test_a_label_in_other_code_points_is_a_duplicate",
    ),
    "label with an invisible character stocked": Mutant(
        INVENTORY,
        "ELSE substring(label FROM",
        "ELSE substring('' FROM",
        "test_a_label_with_an_invisible_character_is_refused",
    ),
    "label may be the id of another slot": Mutant(
        INVENTORY,
        "    IF ambiguous IS NOT NULL THEN",
        "    IF false THEN",
        "test_no_label_is_the_id_of_another_slot",
    ),
    "attributes not checked": Mutant(
        INVENTORY,
        "    PERFORM intake_private.check_attributes(stock.first_slot, stock.attributes);\n",
        "",
        "test_attributes_that_cannot_be_kept_are_refused_with_their_slot",
    ),
    "attributes of a slot may change": Mutant(
        INVENTORY,
        "    WHERE (v.resource_id, v.label, coalesce(v.attributes, '{}'))\n"
        "        IS DISTINCT FROM (w.resource_id, w.label, coalesce(w.attributes, '{}'))\n",
        "    WHERE (v.resource_id, v.label) IS DISTINCT FROM (w.resource_id, w.label)\n",
        "test_a_slot_keeps_the_attributes_that_it_was_stocked_with",
    ),
    "attributes lost in a crash": Mutant(
        SEED,
        "v.resource_id, v.label, v.attributes FROM",
        "v.resource_id, v.label, CASE WHEN config.epoch = 0 THEN v.attributes END FROM",
        "test_slots_have_them_after_a_crash",
    ),
    "withheld slots on sale after a crash": Mutant(
        SEED,
        "FROM intake.withheld w WHERE w.pool_no = config.pool_no",
        "FROM intake.withheld w WHERE false",
        "test_withheld_slots_survive_a_crash",
    ),
    "withheld slot stays on the free list": Mutant(
        WITHHELD,
        "    DELETE FROM intake.free_numbers f USING unnest(done) AS d (slot_no)\n"
        "    WHERE f.pool_no = withhold.pool_no AND f.slot_no = d.slot_no;\n",
        "",
        "test_a_slot_given_back_before_the_sequence_reached_it_can_be_withheld_and_returned",
    ),
    "slots returned beside running claims": Mutant(
        WITHHELD,
        "    PERFORM intake_private.lock_exclusively('intake.pools', '1 h', '15 s');\n",
        "",
        "test_the_sequence_does_not_pass_a_slot_that_is_being_returned",
    ),
    "returned slot never claimed": Mutant(
        WITHHELD,
        "    WHERE d <= coalesce(pg_sequence_last_value(hot.number_seq), 0)\n",
        "    WHERE false\n",
        "test_after_a_return_it_is_not_sold_out",
    ),
    "returned slot on the free list and drawn": Mutant(
        WITHHELD,
        "    WHERE d <= coalesce(pg_sequence_last_value(hot.number_seq), 0)\n",
        "",
        "test_a_slot_that_is_returned_is_sold_once_wherever_the_sequence_is",
    ),
    "run of withheld slots passed one by one": Mutant(
        NUMBERS,
        "            PERFORM intake_private.skip_run(pool, drawn);\n",
        "            NULL;\n",
        "test_a_claim_passes_ten_thousand_withheld_slots_in_one_step",
    ),
    "run of withheld slots passed by every claim that meets it": Mutant(
        NUMBERS,
        "    IF pg_try_advisory_xact_lock(hashtext('intake.skip_run/' || pool.pool_no), goal::int) THEN\n",
        "    IF true THEN\n",
        "test_many_claims_meet_a_run_at_once_and_lose_no_number",
    ),
    "discarded conflict on sale again": Mutant(
        DEAD_LETTERS,
        "WHERE s.conflict AND NOT discard.return_conflicts",
        "WHERE false",
        "test_a_discarded_conflict_stays_off_sale",
    ),
    "replayed conflict stays one": Mutant(
        DEAD_LETTERS,
        "ARRAY['reason', 'dead_at', 'queued_as', 'conflict']",
        "ARRAY['reason', 'dead_at', 'queued_as']",
        "test_a_replayed_conflict_is_none_any_more",
    ),
    "plans from an empty table": Mutant(
        SEED,
        "    PERFORM pg_clear_relation_stats('intake', 'claimed_slots');",
        "    ANALYZE intake.claimed_slots;",
        "test_a_plan_made_for_an_empty_pool_is_good_for_a_full_one",
    ),
}
