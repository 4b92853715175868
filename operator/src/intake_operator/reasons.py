"""Every reason of a condition or an Event, once. docs/runbooks.md has those that a user may have to act on."""

from enum import StrEnum


class ConditionType(StrEnum):
    """The condition types of an IntakeEvent."""

    READY = "Ready"
    DATABASE_READY = "DatabaseReady"
    INTAKE_OPEN = "IntakeOpen"
    SCALING_ACTIVE = "ScalingActive"
    DRAINED = "Drained"
    LEDGER_READY = "LedgerReady"
    DEGRADED = "Degraded"
    LEDGER_CONSISTENT = "LedgerConsistent"
    POOL_UNUSED = "PoolUnused"
    PREFLIGHT_PASSED = "PreflightPassed"


class DatabaseReason(StrEnum):
    """Reasons of DatabaseReady."""

    NOT_CREATED = "NotCreated"
    STARTING = "Starting"
    MIGRATING = "Migrating"
    SEEDING = "Seeding"
    SEEDED = "Seeded"
    UNREACHABLE = "DatabaseUnreachable"
    UNSUPPORTED = "DatabaseVersionUnsupported"
    REMOVED = "Removed"


class IntakeReason(StrEnum):
    """Reasons of IntakeOpen."""

    NOT_YET_OPEN = "NotYetOpen"
    WINDOW_OPEN = "WindowOpen"
    PAUSED = "Paused"
    WINDOW_CLOSED = "WindowClosed"
    WINDOW_PASSED = "WindowPassed"
    NEVER_OPENED = "NeverOpened"
    NOT_READY = "NotReady"


class ScalingReason(StrEnum):
    """Reasons of ScalingActive."""

    IDLE = "Idle"
    FOLLOWING_QUEUE = "FollowingQueue"
    DEPTH_UNKNOWN = "QueueDepthUnknown"
    STOPPED = "Stopped"


class LedgerReadyReason(StrEnum):
    """Reasons of LedgerReady; where it is False, the reason is a Problem."""

    FULL = "FullContract"
    WEAKER = "WeakerContract"
    NOT_LOOKED_AT = "NotLookedAt"


class PoolReason(StrEnum):
    """Reasons of PoolUnused: whether the pool's slots may have been sold before."""

    UNUSED = "PoolUnused"
    NOT_CHECKED = "PoolNotChecked"
    WAITING = "WaitingForLedger"
    USED_BEFORE = "PoolUsedBefore"
    IN_USE = "PoolInUse"


class PreflightReason(StrEnum):
    """Reasons of PreflightPassed; where it is False, the reason is a Problem."""

    PASSED = "ChecksPassed"
    RUNNING = "ChecksRunning"
    NOT_CHECKED = "NotChecked"


class DrainReason(StrEnum):
    """Reasons of Drained: the states of the teardown in order, then the two that block it."""

    NOT_STARTED = "NotStarted"
    INTAKE_CLOSED = "IntakeClosed"
    HOLDS_PENDING = "HoldsPending"
    QUEUE_DRAINING = "QueueDraining"
    VERIFYING = "Verifying"
    KEPT = "Kept"
    BRIDGES_STOPPED = "BridgesStopped"
    DATABASE_STOPPED = "DatabaseStopped"
    VOLUMES_REMOVED = "VolumesRemoved"
    COMPLETED = "Completed"
    DEAD_LETTERS_BLOCK = "DeadLettersBlock"
    PROOF_FAILED = "ProofFailed"


class ConsistencyReason(StrEnum):
    """Reasons of LedgerConsistent."""

    LEDGER_AGREES = "LedgerAgrees"
    LEDGER_INCONSISTENT = "LedgerInconsistent"
    NOT_COMPARED = "NotCompared"
    LEDGER_CANNOT_BE_ASKED = "LedgerCannotBeAsked"
    COMPARISON_FAILED = "ComparisonFailed"


class ReadyReason(StrEnum):
    """Reasons of Ready that are neither a phase nor a problem."""

    PROVISIONING = "Provisioning"
    PAUSED = "Paused"


class Problem(StrEnum):
    """Reasons of Degraded, the most fundamental first: the condition shows the first that was found."""

    SPEC_INVALID = "SpecInvalid"
    CHILD_NOT_OURS = "ChildNotOurs"
    RECONCILE_FAILED = "ReconcileFailed"
    DATABASE_HELD_UP = "DatabaseHeldUp"
    VOLUME_LOST = "VolumeLost"
    DATABASE_VERSION_UNSUPPORTED = "DatabaseVersionUnsupported"
    VOLUME_CLAIM_TERMINATING = "VolumeClaimTerminating"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    POOL_USED_BEFORE = "PoolUsedBefore"
    POOL_IN_USE = "PoolInUse"
    PODS_NOT_CREATED = "PodsNotCreated"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    OUT_OF_MEMORY = "OutOfMemory"
    PODS_NOT_ENDING = "PodsNotEnding"
    OBJECTS_NOT_ENDING = "ObjectsNotEnding"
    INVENTORY_MISSING = "InventoryMissing"
    INVENTORY_INVALID = "InventoryInvalid"
    INVENTORY_TOO_SMALL = "InventoryTooSmall"
    LEDGER_SECRET_MISSING = "LedgerSecretMissing"
    LEDGER_SECRET_KEY_MISSING = "LedgerSecretKeyMissing"
    PODS_NOT_STARTING = "PodsNotStarting"
    CONNECTIONS_EXHAUSTED = "ConnectionsExhausted"
    DATABASE_UNREACHABLE = "DatabaseUnreachable"
    LEDGER_UNREACHABLE = "LedgerUnreachable"
    LEDGER_FUNCTION_MISSING = "LedgerFunctionMissing"
    LEDGER_FUNCTION_AMBIGUOUS = "LedgerFunctionAmbiguous"
    LEDGER_INCONSISTENT = "LedgerInconsistent"
    LEDGER_DOWN = "LedgerDown"
    VALIDATOR_DOWN = "ValidatorDown"
    BRIDGES_FAILING = "BridgesFailing"
    COMMITS_FAILING = "CommitsFailing"
    VALIDATIONS_FAILING = "ValidationsFailing"
    TOO_FEW_BRIDGES = "TooFewBridges"
    VOIDS_FAILING = "VoidsFailing"
    DEAD_LETTERS = "DeadLetters"
    INVENTORY_CHANGED = "InventoryChanged"
    MAX_CONNECTIONS_TOO_SMALL = "MaxConnectionsTooSmall"
    DRAIN_OVERDUE = "DrainOverdue"


class Phase(StrEnum):
    """The value of the PHASE column. Derived on every pass, never read back."""

    PENDING = "Pending"
    WAITING = "Waiting"
    PROVISIONING = "Provisioning"
    SCHEDULED = "Scheduled"
    OPEN = "Open"
    DRAINING = "Draining"
    COMPLETED = "Completed"
    FAILED = "Failed"


ALL_GOOD = "AsExpected"
