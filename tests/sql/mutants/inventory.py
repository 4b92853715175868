"""Mutants of the inventory and of its rebuild."""

from tests.sql.mutants.mutant import Mutant

INVENTORY = "0005_inventory.sql"
SEED = "0006_seed.sql"

MUTANTS = {
    "acknowledgement overlaps the rebuild": Mutant(
        SEED,
        "    PERFORM intake_private.lock_exclusively('intake.claimed_slots');\n",
        "",
        "test_an_acknowledgement_during_a_rebuild_is_not_lost",
    ),
    "dead letters keep no slot": Mutant(
        SEED,
        "FROM intake.intents x WHERE x.message ->> 'pool_id' = config.pool_id\n",
        "FROM intake.intents x WHERE x.message ->> 'pool_id' = config.pool_id AND x.place <> 'dead'\n",
        "test_i6_a_rebuild_restores_every_claimed_slot_and_every_resource_id",
    ),
    "rebuild makes new ids": Mutant(
        SEED,
        "SELECT v.pool_no, v.slot_no, v.resource_id, v.label FROM intake.inventory v",
        "SELECT v.pool_no, v.slot_no, gen_random_uuid(), v.label FROM intake.inventory v",
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
    "plans from an empty table": Mutant(
        SEED,
        "    PERFORM pg_clear_relation_stats('intake', 'claimed_slots');",
        "    ANALYZE intake.claimed_slots;",
        "test_a_plan_made_for_an_empty_pool_is_good_for_a_full_one",
    ),
}
