"""DB1: a StatefulSet of one stock Postgres, and its volume."""

from typing import Any, Final

from intake_operator import names
from intake_operator.children import common
from intake_operator.children.access import PORT
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.spec import Database

UID: Final = 999  # `postgres` in the public image
DATA: Final = "/var/lib/postgresql"
SECRET: Final = "/etc/intake/superuser"

# What an event may set otherwise. A crowd of claimers and the bridges beside it: connections cost little while idle,
# and the default of 100 refuses the crowd. What else was measured made no difference: docs/tuning.md.
DEFAULTS: Final = {"max_connections": "300", "shared_buffers": "256MB"}

# What holds for every DB1, whatever an event or ALTER SYSTEM says.
FIXED: Final = {
    "password_encryption": "scram-sha-256",
    # Kept for the operator and for one bridge with a look beside it: decide/connections.py says who gets the others.
    "superuser_reserved_connections": "3",
    "reserved_connections": "10",
    # For so long a client that connects and does not log in has a connection, whatever its role may have.
    "authentication_timeout": "10s",
    # A prepared transaction keeps its locks without a session that could be ended; seal would wait for it for ever.
    "max_prepared_transactions": "0",
    # 512 kB instead of 8 GB. Nobody here uses NOTIFY, and no right can be taken from those who fill the disk with it.
    "max_notify_queue_pages": "64",
    # No user id gets into the log. A statement has it as a literal or a parameter, DETAIL and CONTEXT quote rows; what
    # claimers provoke is not logged at all (sql/intake/0001_roles_and_schema.sql).
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "log_parameter_max_length": "0",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_duration": "off",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "debug_print_parse": "off",
    "debug_print_rewritten": "off",
    "debug_print_plan": "off",
}

# The password in the Secret is the truth. Postgres takes it at initdb only, so a Secret that was made anew is set here,
# in single-user mode, before the server starts. The marker keeps an ordinary start as fast as it was.
START: Final = f"""
marker=$PGDATA/intake-superuser
wanted=$(sha256sum < {SECRET}/password)
if [ -s "$PGDATA/PG_VERSION" ]; then
  chmod 700 "$PGDATA"
  if [ "$(cat "$marker" 2>/dev/null)" != "$wanted" ]; then
    printf "ALTER ROLE {names.SUPERUSER} PASSWORD '%s'\\n" "$(cat {SECRET}/password)" |
      postgres --single -D "$PGDATA" postgres > /dev/null
    echo "$wanted" > "$marker"
  fi
fi
exec docker-entrypoint.sh postgres "$@"
"""

RESOURCES: Final = {"requests": {"cpu": "250m", "memory": "512Mi"}}


def stateful_set(event: Event, wanted: Database, *, mark: str, guard: str) -> Manifest:
    """DB1's StatefulSet. `guard` marks its pod for the guard of the chart.

    Updates wait for the pod to be deleted (OnDelete): the operator decides when, because nothing may restart a healthy
    DB1 while people are buying.
    """
    meta = common.metadata(event, names.database(event.name), "database")
    meta["annotations"] = _annotations(mark)
    volumes: list[Manifest] = [
        {"name": "superuser", "secret": {"secretName": names.superuser_secret(event.name), "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "run", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
    ]
    spec: Manifest = {
        "serviceName": names.database(event.name),
        "replicas": 1,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "selector": {"matchLabels": common.selector(event, "database")},
    }
    if wanted.volume is None:
        volumes.append({"name": "data", "emptyDir": {}})
    else:
        template = _claim_template(wanted)
        # Should ours be removed by hand, the StatefulSet's controller makes another, and it is still known as ours.
        template["metadata"]["labels"] = common.labels(event, "database")
        spec["volumeClaimTemplates"] = [template]
    spec["template"] = {
        "metadata": {"labels": common.labels(event, "database") | {names.GUARD_LABEL: guard}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": common.restricted_pod(UID),
            # Fast shutdown and its checkpoint: a clean stop keeps the UNLOGGED tables, a SIGKILL empties them.
            "terminationGracePeriodSeconds": 120,
            "containers": [_container(wanted)],
            "volumes": volumes,
        },
    }
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec}


def volume_claim(
    event: Event, wanted: Database, *, mark: str, held: bool, existing: Manifest | None = None
) -> Manifest | None:
    """The volume, made by us under the name that the StatefulSet looks for.

    So it has owners, and outlives a StatefulSet that somebody deletes in the middle of a sale. With `held` it has our
    finalizer: should it be deleted all the same, its bytes stay. One that is there keeps its size: a person may have
    grown it because it was filling up, and the API server shrinks none. Nor does it take a new finalizer on one that is
    being deleted.
    """
    if wanted.volume is None:
        return None
    meta = common.metadata(event, names.volume_claim(event.name), "database")
    meta["annotations"] = _annotations(mark)
    if held and (not is_being_deleted(existing) or has_our_finalizer(existing)):
        meta["finalizers"] = [names.FINALIZER]
    spec = _claim_template(wanted)["spec"]
    if existing:
        spec["resources"]["requests"]["storage"] = existing["spec"]["resources"]["requests"]["storage"]
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def is_being_deleted(existing: Manifest | None) -> bool:
    """It is being deleted: its volume may be gone with the next pod."""
    return existing is not None and "deletionTimestamp" in existing["metadata"]


def has_our_finalizer(existing: Manifest | None) -> bool:
    """It has our finalizer."""
    return existing is not None and names.FINALIZER in (existing["metadata"].get("finalizers") or ())


def _annotations(mark: str) -> dict[str, str]:
    return {names.CLAIMABLE_ANNOTATION: mark} if mark else {}


def _claim_template(wanted: Database) -> Manifest:
    assert wanted.volume is not None
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(wanted.volume.size)}},
    }
    if wanted.volume.storage_class_name:
        spec["storageClassName"] = wanted.volume.storage_class_name
    return {"metadata": {"name": "data"}, "spec": spec}


def settings(wanted: Database) -> dict[str, str]:
    """What Postgres is started with."""
    return DEFAULTS | wanted.parameters | FIXED


def _container(wanted: Database) -> dict[str, Any]:
    alive = ["pg_isready", "-q", "-h", "127.0.0.1", "-U", names.SUPERUSER, "-d", names.DATABASE_NAME]
    return {
        "name": "postgres",
        "image": wanted.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-ec", START, "start"],
        "args": [word for name, value in sorted(settings(wanted).items()) for word in ("-c", f"{name}={value}")],
        "env": [
            {"name": "POSTGRES_USER", "value": names.SUPERUSER},
            {"name": "POSTGRES_DB", "value": names.DATABASE_NAME},
            {"name": "POSTGRES_PASSWORD_FILE", "value": f"{SECRET}/password"},
            # UTF-8 whatever the image's locale: normalize(), which composes labels, takes no other encoding.
            {"name": "POSTGRES_INITDB_ARGS", "value": "--data-checksums --auth-host=scram-sha-256 --encoding=UTF8"},
            # A folder below the mount: a fresh volume may hold lost+found, and initdb wants an empty folder.
            {"name": "PGDATA", "value": f"{DATA}/18/docker"},
        ],
        "ports": [{"name": "postgres", "containerPort": PORT, "protocol": "TCP"}],
        # Ready over TCP only: during initdb a temporary server answers on the socket.
        "startupProbe": {"exec": {"command": alive}, "periodSeconds": 1, "failureThreshold": 300},
        "readinessProbe": {"exec": {"command": alive}, "periodSeconds": 5, "timeoutSeconds": 5},
        "resources": wanted.resources or RESOURCES,
        "securityContext": common.restricted_container(),
        "volumeMounts": [
            {"name": "data", "mountPath": DATA},
            {"name": "superuser", "mountPath": SECRET, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
