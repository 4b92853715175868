"""Broken operators: one textual change each, and the test that must fail on it.

A change that no longer applies is an error, so that this list cannot rot. Imports nothing of the operator: a mutant is
installed before the operator is imported.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from world.account_mutants import ACCOUNT
from world.health_mutants import HEALTH
from world.place_mutants import PLACES
from world.reading_mutants import READING
from world.version_mutants import VERSION
from world.waiting_mutants import WAITING


@dataclass(frozen=True)
class Mutant:
    """A broken variant of one module of the operator."""

    where: str
    """The module, below intake_operator, or with its full name in intake_shared."""
    before: str
    after: str
    caught_by: str
    """The test function that must fail on it."""
    file: str
    """And the file that it is in."""

    @property
    def module(self) -> str:
        """Its name for an import."""
        return self.where if self.where.startswith("intake_shared.") else f"intake_operator.{self.where}"

    def replaced(self, text: str) -> str:
        """The broken text."""
        if text.count(self.before) != 1:
            raise ValueError(f"{self.where}: the mutant's text occurs {text.count(self.before)} times, not once")
        return text.replace(self.before, self.after)


TEARDOWN, MEMORY, PLAN, CHILDREN = "test_plan_teardown.py", "test_memory.py", "test_plan.py", "test_children.py"
VOLUME, UNSETTLED, MODEL = "test_volume_claim.py", "test_unsettled.py", "test_whoever_deletes_model.py"
SCALING, CHECKOUT = "test_scaling.py", "test_checkout.py"
ONE_OR_TWO = "test_i11_one_thing_or_two_in_the_midst_of_a_sale_lose_nothing"

MUTANTS = {
    "report taken from a ConfigMap": Mutant(
        "decide.stage",
        "    if memory.report(event) is not None:",
        "    if memory.report(event) is not None or ('ConfigMap', names.report(event.name)) in observed.children:",
        "test_i11_a_config_map_with_the_name_of_the_report_permits_no_removal",
        TEARDOWN,
    ),
    "report before its copy is made": Mutant(
        "decide.teardown",
        '    return steps.Plan((steps.Apply(copy),), before, AT_ONCE, after=before | {"report": final_report})',
        '    return steps.Plan((steps.Apply(copy),), before | {"report": final_report}, AT_ONCE)',
        "test_the_states_in_their_order",
        TEARDOWN,
    ),
    "identity inferred as new when the status is missing": Mutant(
        "decide.memory",
        "        return str(known)\n",
        "        return str(known)\n    if observed.database.identity:\n        return observed.database.identity\n",
        "test_i11_an_empty_db1_is_reported_whatever_else_was_lost",
        MEMORY,
    ),
    "status takes the identity of any DB1": Mutant(
        "decide.status",
        '"database": memory.database(event, observed, facts.claimable or memory.identity(event, observed)),',
        '"database": memory.database(event, observed, observed.database.identity),',
        "test_i11_an_empty_db1_is_reported_whatever_else_was_lost",
        MEMORY,
    ),
    "empty DB1 taken for the one that was sold from": Mutant(
        "decide.memory",
        "    return bool(before and observed.database.identity and observed.database.identity != before)",
        "    return False",
        ONE_OR_TWO,
        MODEL,
    ),
    "empty DB1 sealed": Mutant(
        "decide.teardown",
        "    if not database.sealed or memory.volume_lost(facts.event, facts.observed):",
        "    if not database.sealed:",
        "test_the_drain_of_a_lost_db1_waits_and_never_seals_an_empty_one",
        MEMORY,
    ),
    "anchor released first": Mutant(
        "decide.teardown",
        'REMAINS: Final = ("PersistentVolumeClaim",',
        'REMAINS: Final = ("NetworkPolicy", "PersistentVolumeClaim",',
        "test_bridges_then_db1_then_volume_then_secrets_then_the_anchor_then_the_finalizer",
        TEARDOWN,
    ),
    "workload deleted before its pods are gone": Mutant(
        "decide.teardown",
        "    if pods.of_component(facts.observed.pods, component):\n        return desired.strays",
        "    if False:\n        return desired.strays",
        "test_a_workload_stays_until_its_last_pod_is_gone",
        UNSETTLED,
    ),
    "finalizer removed before the anchor is": Mutant(
        "decide.teardown",
        "    if anchor := children.get((kinship.ANCHOR, database)):",
        "    if (anchor := children.get((kinship.ANCHOR, database))) and names.FINALIZER not in event.finalizers:",
        "test_bridges_then_db1_then_volume_then_secrets_then_the_anchor_then_the_finalizer",
        TEARDOWN,
    ),
    "drain without a proof": Mutant(
        "decide.teardown",
        "    if proof is not None and proof.failures:",
        "    if False:",
        "test_the_states_in_their_order",
        TEARDOWN,
    ),
    "held claim not counted as unsettled": Mutant(
        "model.observed",
        "        return self.status.holds.claims if self.status else 0",
        "        return 0",
        "test_i11_no_proof_is_made_while_a_claim_is_held",
        CHECKOUT,
    ),
    "drain that does not wait for holds": Mutant(
        "decide.teardown",
        "    if database.held:\n",
        "    if False:\n",
        "test_i11_nothing_is_removed_while_a_claim_is_held",
        CHECKOUT,
    ),
    "proof made while claims are held": Mutant(
        "decide.needs",
        "    unsettled = database.held or database.depth or database.dead_letters",
        "    unsettled = database.depth or database.dead_letters",
        "test_i11_no_proof_is_made_while_a_claim_is_held",
        CHECKOUT,
    ),
    "no bridge for holds": Mutant(
        "decide.scaling",
        "    if not ends_holds or spec.bridge.min_replicas:",
        "    if True:",
        ONE_OR_TWO,
        MODEL,
    ),
    "no bridge for holds behind the seal": Mutant(
        "decide.scaling",
        "    ends_holds = database.held or (spec.checkout is not None and not database.sealed)",
        "    ends_holds = spec.checkout is not None and not database.sealed",
        "test_it_is_there_as_long_as_the_window_is_open_and_stays_for_the_last_hold",
        CHECKOUT,
    ),
    "holds counted as a slow drain": Mutant(
        "decide.health.findings",
        "        overdue = min(now - since, now - hold_ends) > patience",
        "        overdue = now - since > patience",
        "test_a_drain_is_not_overdue_by_the_time_in_which_holds_may_be_confirmed",
        CHECKOUT,
    ),
    "holds forgotten once they are over": Mutant(
        "decide.health.findings",
        "        overdue = now - since > patience + (checkout.longest if checkout else timedelta(0))",
        "        overdue = now - since > patience",
        "test_a_drain_is_not_overdue_by_the_time_in_which_holds_may_be_confirmed",
        CHECKOUT,
    ),
    "held slots taken for missing ones": Mutant(
        "model.engine_status",
        "        return self.available + self.held + self.withheld + self.reserved + self.consumed",
        "        return self.available + self.reserved + self.consumed",
        "test_held_and_withheld_slots_are_seeded_slots",
        CHECKOUT,
    ),
    "lost holds in no count": Mutant(
        "decide.memory",
        'for name in ("held", "depth", "deadLetters", "committed", "voided"))',
        'for name in ("depth", "deadLetters", "committed", "voided"))',
        "test_a_rebuilt_db1_is_sold_from_and_the_missing_claims_are_counted",
        MEMORY,
    ),
    "abandoned by any word": Mutant(
        "model.observed",
        "        return self.annotations.get(annotation) == self.name",
        "        return annotation in self.annotations",
        "test_only_the_event_s_own_name_abandons_it",
        TEARDOWN,
    ),
    "finalizer after the first child": Mutant(
        "decide.serve",
        "    if names.FINALIZER not in event.finalizers:",
        "    if names.FINALIZER not in event.finalizers and observed.children:",
        "test_the_finalizer_comes_before_the_first_child",
        PLAN,
    ),
    "children without the anchor": Mutant(
        "children.kinship",
        "    owners = [reference(anchor)]\n    if not COLLECTING & set(event.finalizers):\n"
        "        owners.insert(0, common.owner(event))\n",
        "    owners = [common.owner(event)]\n",
        ONE_OR_TWO,
        MODEL,
    ),
    "anchor renewed while other children depend on it": Mutant(
        "decide.desired",
        "    return not event.deleting and all(",
        "    return True or all(",
        "test_i11_a_deleted_anchor_is_renewed_only_while_no_child_depends_on_it",
        UNSETTLED,
    ),
    "event's reference put back while it is collected": Mutant(
        "children.kinship",
        "    if not COLLECTING & set(event.finalizers):",
        "    if True:",
        "test_the_event_s_reference_is_not_put_back_while_the_garbage_collector_takes_it_away",
        CHILDREN,
    ),
    "never open without the margin": Mutant(
        "decide.memory",
        "    return now + SAFELY_BEFORE < datetime",
        "    return now < datetime",
        "test_i11_a_scheduled_event_is_removed_without_db1_only_well_before_the_earliest_opening",
        TEARDOWN,
    ),
    "earliest opening forgotten": Mutant(
        "decide.memory",
        'and opens < datetime.fromisoformat(changed["sellsFrom"])',
        'and opens != datetime.fromisoformat(changed["sellsFrom"])',
        "test_i11_the_earliest_opening_is_remembered_when_it_is_moved_back",
        TEARDOWN,
    ),
    "recovered while a bridge still runs": Mutant(
        "decide.desired",
        "spec.commit_target.postgres is not None and not bridging",
        "spec.commit_target.postgres is not None",
        "test_the_bridges_have_ended_before_the_ledger_is_read",
        MEMORY,
    ),
    "seeded without the pool's verdict": Mutant(
        "decide.desired",
        "if _stocked(spec, observed.database) and _pool_announced(event, observed) else",
        "if _stocked(spec, observed.database) else",
        "test_i1_slots_are_seeded_only_when_their_pool_may_be_sold",
        MEMORY,
    ),
    "volume claim without its finalizer": Mutant(
        "children.database",
        "    if unsettled and (not is_being_deleted(existing) or has_our_finalizer(existing)):",
        "    if False:",
        "test_i11_the_volume_claim_has_our_finalizer_as_soon_as_claims_may_exist",
        VOLUME,
    ),
    "new finalizer on a claim that is being deleted": Mutant(
        "children.database",
        "    if unsettled and (not is_being_deleted(existing) or has_our_finalizer(existing)):",
        "    if unsettled:",
        "test_no_finalizer_is_put_on_a_volume_claim_that_is_being_deleted",
        VOLUME,
    ),
    "guard dropped while unsettled": Mutant(
        "decide.desired",
        '    guard = "" if facts.settled else installation.guard\n    anchor',
        '    guard = "" if facts.stage is Stage.DRAIN else installation.guard\n    anchor',
        "test_i11_everything_stays_guarded_while_claims_are_unsettled",
        UNSETTLED,
    ),
    "pods of a deleted workload left to others": Mutant(
        "decide.teardown",
        "        return desired.strays(facts.observed, component, found)",
        "        return []",
        "test_pods_of_a_workload_that_was_deleted_by_hand_are_deleted_with_the_rest",
        UNSETTLED,
    ),
    "budget lifted where the pod is the data": Mutant(
        "decide.desired",
        "keep_pod=serves or (unsettled and not has_volume)",
        "keep_pod=serves",
        "test_i11_the_budget_allows_no_eviction_where_the_pod_is_the_data",
        UNSETTLED,
    ),
    "kept on though the namespace goes": Mutant(
        "decide.stage",
        "    if event.spec is None or event.deleting or abandoned(event):",
        "    if event.spec is None or event.deleted_at or abandoned(event):",
        "test_it_ends_with_its_time_or_a_deletion",
        TEARDOWN,
    ),
    "namespace's deletion not noticed": Mutant(
        "model.observed",
        "        return self.deleted_at is not None or self.namespace_deleted_at is not None",
        "        return self.deleted_at is not None",
        "test_a_namespace_that_is_being_deleted_ends_the_sale",
        TEARDOWN,
    ),
    "scaled in a namespace that goes": Mutant(
        "decide.desired",
        '                return ("Deployment", names.bridge(facts.event.name)) in existing',
        "                return True",
        "test_no_bridge_is_scaled_that_cannot_be_created_in_a_namespace_that_is_being_deleted",
        UNSETTLED,
    ),
    "made in a namespace that goes": Mutant(
        "decide.desired",
        "    if facts.event.namespace_deleted_at is None:",
        "    if True:",
        "test_no_object_is_created_in_it_and_the_drain_goes_on",
        TEARDOWN,
    ),
    "bridges go by the depth of the moment": Mutant(
        "decide.scaling",
        "    kept = _replicas_for(max(queue.peak, queue.depth) * of,",
        "    kept = _replicas_for(queue.depth * of,",
        "test_a_short_lull_in_a_long_rush_stops_no_bridge",
        SCALING,
    ),
    "no rest for a bridge that has come": Mutant(
        "decide.scaling",
        "    return now + (COOLDOWN if after < before else LOOK_BACK)",
        "    return now + COOLDOWN",
        "test_a_peak_between_two_rows_of_db1_keeps_its_bridges",
        SCALING,
    ),
    "label kept as it is written": Mutant(
        "model.inventory",
        "    label = None if label is None else labels.composed(label)\n",
        "",
        "test_a_label_is_one_however_its_letters_are_composed",
        "test_inventory.py",
    ),
    "IPv6 address taken for a Service": Mutant(
        "addresses",
        'for mark in ".:/")',
        'for mark in "./")',
        "test_a_uri_has_the_hosts_that_the_table_says",
        "test_uris.py",
    ),
    "certificate checked for the operator's own name of a Service": Mutant(
        "addresses",
        "            names={qualified_host(host, self.namespace): host for host in hosts},\n",
        "",
        "test_the_certificate_needs_the_name_that_the_uri_has_and_no_other",
        "test_certificates.py",
    ),
    "name in the certificate not checked": Mutant(
        "intake_shared.uris",
        'mode = "verify-full" if certificates',
        'mode = "verify-ca" if certificates',
        "test_the_certificate_needs_the_name_that_the_uri_has_and_no_other",
        "test_certificates.py",
    ),
    "URI without TLS beside an authority": Mutant(
        "intake_shared.uris",
        "    if mode is not None and mode not in _ENCRYPTED:",
        "    if False:",
        "test_a_uri_that_says_the_contrary_is_refused_for_ledger_and_hall",
        "test_certificates.py",
    ),
    "ledger called without its certificates": Mutant(
        "addresses",
        "            certificates=self.certificates,\n",
        "",
        "test_ledger_pool_proof_voiding_and_hall_are_all_reached",
        "test_certificates.py",
    ),
    "slash in a password not looked for": Mutant(
        "intake_shared.uris",
        '    if "@" in path:',
        "    if False:",
        "test_a_uri_that_libpq_would_misread_is_refused_and_not_quoted",
        "test_uris.py",
    ),
    "each host has all of the time": Mutant(
        "intake_shared.connections",
        "asyncio.timeout((deadline - clock()) / left)",
        "asyncio.timeout(deadline - clock())",
        "test_behind_two_frozen_hosts_the_third_is_reached_within_a_check",
        "test_uris.py",
    ),
    "two proofs read as none": Mutant(
        "ledger.functions",
        '        raise AmbiguousFunctionError(\n            f"ambiguous: the ledger has',
        '        return False\n        raise AmbiguousFunctionError(\n            f"ambiguous: the ledger has',
        "test_a_ledger_with_two_functions_of_a_name_is_reported_before_the_sale",
        "test_ledger_functions.py",
    ),
    "claims read as text": Mutant(
        "ledger.claims",
        "(pool, after, LEDGER_PAGE), binary=True)",
        "(pool, after, LEDGER_PAGE))",
        "test_no_setting_changes_what_is_read",
        "test_session_settings.py",
    ),
    "another name voided": Mutant(
        "ledger.voiding",
        "    if row is None or not row[0]:",
        "    if row is None:",
        "test_a_user_that_the_ledger_s_encoding_lacks_is_not_voided_under_another_name",
        "test_ledger_encodings.py",
    ),
    "claimers log in before they have a limit": Mutant(
        "decide.desired",
        "        todo.append(steps.LimitClaimers(others))  # before a claimer can log in\n",
        "        todo += [steps.LimitClaimers(others)] if known.migrated else []\n",
        "test_db1_is_marked_before_a_claim_can_be_acknowledged",
        PLAN,
    ),
    "limit of claimers blind to the bridges": Mutant(
        "decide.connections",
        "    return BRIDGE * spec.bridge.max_replicas + OTHERS\n",
        "    return BRIDGE * 4 + OTHERS\n",
        "test_the_limit_follows_the_bridges_and_the_server",
        "test_connections.py",
    ),
    "event's parameters over ours": Mutant(
        "children.database",
        "    return DEFAULTS | database.parameters | FIXED\n",
        "    return DEFAULTS | FIXED | database.parameters\n",
        "test_an_event_cannot_override_the_operator_s_parameters",
        "test_parameters.py",
    ),
    "any parameter taken": Mutant(
        "model.parameters",
        "    if unknown := sorted(given.keys() - ALLOWED):\n",
        "    if unknown := sorted(given.keys() & {'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level'}):\n",
        "test_each_other_setting_of_postgres_is_refused",
        "test_parameters.py",
    ),
    "full DB1 blamed on network policies": Mutant(
        "decide.health.findings",
        "    if observed.database.refused:\n",
        "    if False:\n",
        "test_a_db1_that_refuses_the_operator_for_want_of_connections_is_reported_at_once",
        "test_health.py",
    ),
    "altered roles left as they are": Mutant(
        "decide.desired",
        "    if stale or known.altered_roles:\n",
        "    if stale:\n",
        "test_settings_that_a_role_gave_itself_are_reset_at_all_times",
        PLAN,
    ),
    "one namespace takes every worker": Mutant(
        "workqueue",
        "        if self.workers - len(self._working) <= self._reserve:\n",
        "        if False:\n",
        "test_one_namespace_whose_passes_hang_leaves_workers_for_others",
        "test_workqueue.py",
    ),
    "more than a share while others wait": Mutant(
        "workqueue",
        "        others_wait = len(self._ready) > 1\n",
        "        others_wait = False\n",
        "test_a_namespace_gives_back_what_is_above_its_share_as_its_passes_end",
        "test_workqueue.py",
    ),
    "one namespace takes every long read": Mutant(
        "long_reads",
        "asyncio.Semaphore(self._most_of_a_namespace)",
        "asyncio.Semaphore(1_000)",
        "test_a_namespace_has_its_number_of_reads_and_leaves_the_rest_to_others",
        "test_long_reads.py",
    ),
    "long label fetched before it is measured": Mutant(
        "inventory.table",
        "SELECT seats.resource_id, left(seats.label, {longest_label}), {attributes}",
        "SELECT seats.resource_id, seats.label, {attributes}",
        "test_of_a_long_value_no_more_is_fetched_than_shows_that_it_is_too_long",
        "test_inventories.py",
    ),
    "answer of any length taken": Mutant(
        "intake_shared.measured",
        "                if taken > self._most:\n",
        "                if False:\n",
        "test_an_answer_that_is_too_long_is_broken_off_and_told",
        "test_long_rows.py",
    ),
    "old answer of the ledger lets slots be seeded": Mutant(
        "model.observed",
        " and not self.asking\n",
        "\n",
        "test_an_old_answer_of_the_ledger_is_told_and_lets_nothing_be_seeded",
        "test_pool.py",
    ),
    "operator's labels let any pod into DB1": Mutant(
        "children.protection",
        """{"namespaceSelector": _named(operator_namespace), "podSelector\"""",
        """{"namespaceSelector": {}, "podSelector\"""",
        "test_db1_admits_its_own_namespace_and_the_operator_by_namespace_and_labels",
        CHILDREN,
    ),
} | {name: Mutant(*mutant) for name, mutant in (ACCOUNT | HEALTH | PLACES | READING | VERSION | WAITING).items()}


class _Broken(SourceFileLoader):
    """Compiles the broken text; no cache, neither read nor written."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.path).decode()
        return compile(self.mutant.replaced(text), self.path, "exec")


class _Finder:
    """Finds one module, broken."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        loader = _Broken(fullname, spec.origin)
        loader.mutant = self._mutant
        spec.loader = loader
        return spec


def install(name: str) -> None:
    """Have this process import the broken module."""
    mutant = MUTANTS[name]
    assert mutant.module not in sys.modules, "too late: it is imported already"
    sys.meta_path.insert(0, _Finder(mutant))
