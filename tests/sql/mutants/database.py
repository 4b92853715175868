"""Mutants of roles and rights, the configuration, the restore and the seal."""

from tests.sql.mutants.mutant import Mutant

ROLES_AND_SCHEMA = "0001_roles_and_schema.sql"
CONFIGURATION = "0002_configuration.sql"
PROOF = "0014_proof.sql"
RESTORE = "0017_restore.sql"
SEAL = "0018_seal.sql"

MUTANTS = {
    "seal without barrier": Mutant(
        SEAL,
        "    ended := intake_private.lock_exclusively('intake.pools');\n",
        "",
        "test_i2_seal_waits_for_running_claims_and_lets_none_pass_it",
    ),
    "all sessions wait behind the seal": Mutant(
        SEAL,
        "SET lock_timeout = '100ms'",
        "SET lock_timeout = '30s'",
        "test_i2_is_ended_by_the_seal_while_others_read",
    ),
    "the seal ends sessions of other roles": Mutant(
        SEAL,
        "IF session.claimer AND waited",
        "IF waited",
        "test_locks_of_other_roles_are_reported_and_left_alone",
    ),
    "PUBLIC may execute": Mutant(
        ROLES_AND_SCHEMA,
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;",
        "",
        "test_a_role_calls_its_functions_and_no_other",
    ),
    "digest of first slots only": Mutant(
        PROOF,
        "            WHEN 'committed' THEN CASE jsonb_array_length(i.message -> 'seats')\n",
        "            WHEN 'committed' THEN CASE 1\n",
        "test_the_proof_of_claims_of_several_slots_agrees_with_the_ledger",
    ),
    "proof forgets holds that ended long ago": Mutant(
        PROOF,
        "            + coalesce((SELECT e.expired + e.released FROM intake.ended_holds e"
        " WHERE e.pool_no = config.pool_no), 0),\n",
        ",\n",
        "test_i6_slots_and_claims_are_counted_apart_and_after_a_crash_alike",
    ),
    "restored slot sold again": Mutant(
        RESTORE,
        "p.user_id, p.request_id, p.seats, NULL, p.claimed_at)",
        "p.user_id, p.request_id, jsonb_build_array(p.seats -> 0), NULL, p.claimed_at)",
        "test_i1_what_the_ledger_has_sold_is_not_sold_again",
    ),
    "voided claim restored as committed": Mutant(
        RESTORE,
        "                'outcome', p.state, 'restored', true)",
        "                'outcome', 'committed', 'restored', true)",
        "test_a_voided_claim_is_restored_as_voided",
    ),
    "restore drops the request": Mutant(
        RESTORE,
        "p.user_id, p.request_id, p.seats, NULL, p.claimed_at)",
        "p.user_id, NULL, p.seats, NULL, p.claimed_at)",
        "test_i7_a_repeated_request_gets_the_first_answer_after_a_restore",
    ),
    "restored over a sale": Mutant(
        RESTORE,
        "    IF config.epoch > 0 THEN",
        "    IF false THEN",
        "test_only_a_new_pool_is_restored",
    ),
    "seeded between two pages": Mutant(
        RESTORE,
        "    PERFORM pg_advisory_xact_lock(hashtext('intake.seed'), config.pool_no);\n",
        "",
        "test_seed_waits_for_a_running_restore",
    ),
    "restored into another inventory": Mutant(
        RESTORE,
        "AND p.ledger_resources IS DISTINCT FROM p.resource_ids AS differs",
        "AND false AS differs",
        "test_another_inventory_than_was_sold_from_is_refused",
    ),
    "the sequence starts before what was restored": Mutant(
        RESTORE,
        "    PERFORM setval(intake_private.number_sequence(config.pool_no), "
        "intake_private.last_drawn_number(config.pool_id));\n",
        "",
        "test_no_claim_has_to_skip_what_is_sold",
    ),
    "advisory locks left to PUBLIC": Mutant(
        ROLES_AND_SCHEMA,
        "'pg_advisory_unlock_all', ",
        "'pg_advisory_unlock_all', 'pg_advisory_xact_lock', ",
        "test_public_may_call_what_was_reviewed_and_nothing_else",
    ),
    "own password overlooked": Mutant(
        ROLES_AND_SCHEMA,
        "    WHERE a.rolcanlogin AND encode(sha256(a.rolpassword::bytea), 'hex') = l.verifier;\n",
        "    WHERE a.rolcanlogin;\n",
        "test_a_password_that_a_role_gave_itself_is_noticed",
    ),
    "own settings for one database overlooked": Mutant(
        ROLES_AND_SCHEMA,
        "        EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', reset_role.role_name, db_name);\n",
        "        NULL;\n",
        "test_a_limit_that_a_claimer_took_off_its_role_comes_back",
    ),
    "sessions with wrong settings live on": Mutant(
        ROLES_AND_SCHEMA,
        "            AND a.backend_start >= coalesce(reset_role.since, '-infinity'));\n",
        "            AND false);\n",
        "test_sessions_that_began_with_wrong_settings_end_and_others_stay",
    ),
    "sessions with right settings end, too": Mutant(
        ROLES_AND_SCHEMA,
        "            AND a.backend_start >= coalesce(reset_role.since, '-infinity'));\n",
        "            );\n",
        "test_sessions_that_began_with_wrong_settings_end_and_others_stay",
    ),
    "two configures overlap": Mutant(
        CONFIGURATION,
        "    PERFORM pg_advisory_xact_lock(hashtext('intake.configure'));\n",
        "",
        "test_configure_is_one_at_a_time",
    ),
    "claimers define objects": Mutant(
        ROLES_AND_SCHEMA,
        "    IF NOT pg_catalog.has_schema_privilege(current_user, 'intake', 'CREATE') THEN",
        "    IF false THEN",
        "test_a_claimer_that_defines_something_is_refused_before_it_waits_for_a_lock",
    ),
}
