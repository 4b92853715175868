"""DB1: a StatefulSet of one stock Postgres, and its volume."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from intake_operator import names
from intake_operator.children import common, templates
from intake_operator.children.access import PORT
from intake_operator.children.installation import Installation
from intake_operator.model.observed import Event, Manifest
from intake_operator.model.spec import Database

UID: Final = 999  # `postgres` in the public image
DATA: Final = "/var/lib/postgresql"
SECRET: Final = "/etc/intake/superuser"

# Defaults that an event may change. Idle connections cost little, and Postgres' default of 100 is too few for many
# claimers and the bridges. No other parameter made a difference when it was measured: docs/tuning.md.
DEFAULTS: Final = {"max_connections": "300", "shared_buffers": "256MB"}

# Fixed for every DB1: neither an event nor ALTER SYSTEM changes them.
FIXED: Final = {
    "password_encryption": "scram-sha-256",
    # For the operator, and for one bridge and a monitor: decide/connections.py says who gets the others.
    "superuser_reserved_connections": "3",
    "reserved_connections": "10",
    # A client that connects and does not log in keeps a connection for this long, whatever the limit of its role.
    "authentication_timeout": "10s",
    # A prepared transaction keeps its locks without a session that could be ended; seal would wait for it for ever.
    "max_prepared_transactions": "0",
    # 512 kB instead of 8 GB. NOTIFY is not used here, and no role can be denied to fill the disk with it.
    "max_notify_queue_pages": "64",
    # No user id in the log. A statement has it as a literal or a parameter, DETAIL and CONTEXT quote rows. Errors of
    # claimers are not logged at all (sql/intake/0001_roles_and_schema.sql).
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

# Postgres takes the password of the Secret at initdb only. So the password of a new Secret is set here, in single-user
# mode, before the server starts. The marker file spares an ordinary start this step.
# `postgres --single` looks up the name of its user, which has no passwd entry where a cluster gives pods user ids of
# their own. nss_wrapper, which the official image has for its initdb, answers with an entry of ours.
START: Final = f"""
marker=$PGDATA/intake-superuser
wanted=$(sha256sum < {SECRET}/password)
with_passwd_entry() {{
  wrapper=
  if ! getent passwd "$(id -u)" > /dev/null; then
    for file in /usr/lib/*/libnss_wrapper.so /usr/lib/libnss_wrapper.so; do
      if [ -s "$file" ]; then wrapper=$file; fi
    done
  fi
  if [ -z "$wrapper" ]; then "$@"; return; fi
  echo "postgres:x:$(id -u):$(id -g)::/tmp:/bin/false" > /tmp/passwd
  echo "postgres:x:$(id -g):" > /tmp/group
  LD_PRELOAD=$wrapper NSS_WRAPPER_PASSWD=/tmp/passwd NSS_WRAPPER_GROUP=/tmp/group "$@"
}}
if [ -s "$PGDATA/PG_VERSION" ]; then
  chmod 700 "$PGDATA"
  if [ "$(cat "$marker" 2>/dev/null)" != "$wanted" ]; then
    printf "ALTER ROLE {names.SUPERUSER} PASSWORD '%s'\\n" "$(cat {SECRET}/password)" |
      with_passwd_entry postgres --single -D "$PGDATA" postgres > /dev/null
    echo "$wanted" > "$marker"
  fi
fi
exec docker-entrypoint.sh postgres "$@"
"""

RESOURCES: Final = {"requests": {"cpu": "250m", "memory": "512Mi"}}


def stateful_set(
    event: Event, database: Database, installation: Installation, *, identity: str, existing: Manifest | None = None
) -> Manifest:
    """DB1's StatefulSet. `identity` is as in `volume_claim`. One that has claims keeps its user, who owns its data.

    Updates wait until the pod is deleted (OnDelete): the operator decides when, because nothing may restart a healthy
    DB1 during a sale.
    """
    meta = common.metadata(event, names.database(event.name), "database")
    meta["annotations"] = _annotations(identity)
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
    if database.volume is None:
        volumes.append({"name": "data", "emptyDir": {}})
    else:
        template = _claim_template(database)
        # If the volume claim is deleted by hand, the StatefulSet's controller creates another one, with our labels.
        template["metadata"]["labels"] = common.labels(event, "database")
        spec["volumeClaimTemplates"] = [template]
    if existing and identity:
        ids = existing["spec"]["template"]["spec"].get("securityContext") or {}
        installation = replace(installation, fixed_ids="runAsUser" in ids)
    settings = database.over(installation.defaults.database)
    spec["template"] = common.pod_template(
        event,
        "database",
        UID,
        settings,
        installation,
        # A fast shutdown with its checkpoint: a clean stop keeps the UNLOGGED tables, a SIGKILL empties them.
        terminationGracePeriodSeconds=120,
        containers=[_container(database, settings.resources)],
        volumes=volumes,
    )
    made = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec}
    said_of_pods = database.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"storage"})
    return templates.stamped(made, said_of_pods)


def volume_claim(
    event: Event, database: Database, *, identity: str, unsettled: bool, existing: Manifest | None = None
) -> Manifest | None:
    """DB1's volume claim, created by the operator under the name that the StatefulSet uses.

    So it has owners, and outlives a StatefulSet that is deleted during a sale. `identity` is the
    system identifier of the DB1 that may have claims, empty before any. With `unsettled` claims it has our finalizer:
    if it is deleted all the same, its data stays. An existing one keeps its size: a user may have grown it, and the API
    server refuses to shrink it. The API server also refuses a new finalizer on one that is being deleted.
    """
    if database.volume is None:
        return None
    meta = common.metadata(event, names.volume_claim(event.name), "database")
    meta["annotations"] = _annotations(identity)
    if unsettled and (not is_being_deleted(existing) or has_our_finalizer(existing)):
        meta["finalizers"] = [names.FINALIZER]
    spec = _claim_template(database)["spec"]
    if existing:
        spec["resources"]["requests"]["storage"] = existing["spec"]["resources"]["requests"]["storage"]
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def is_being_deleted(existing: Manifest | None) -> bool:
    """Whether it is being deleted: its volume may be gone with the next pod."""
    return existing is not None and "deletionTimestamp" in existing["metadata"]


def has_our_finalizer(existing: Manifest | None) -> bool:
    """Whether it has our finalizer."""
    return existing is not None and names.FINALIZER in (existing["metadata"].get("finalizers") or ())


def _annotations(identity: str) -> dict[str, str]:
    return {names.CLAIMABLE_ANNOTATION: identity} if identity else {}


def _claim_template(database: Database) -> Manifest:
    assert database.volume is not None
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(database.volume.size)}},
    }
    if database.volume.storage_class_name:
        spec["storageClassName"] = database.volume.storage_class_name
    return {"metadata": {"name": "data"}, "spec": spec}


def settings(database: Database) -> dict[str, str]:
    """The parameters that Postgres is started with."""
    return DEFAULTS | database.parameters | FIXED


def _container(database: Database, resources: Mapping[str, Any] | None) -> dict[str, Any]:
    alive = ["pg_isready", "-q", "-h", "127.0.0.1", "-U", names.SUPERUSER, "-d", names.DATABASE_NAME]
    return {
        "name": "postgres",
        "image": database.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-ec", START, "start"],
        "args": [arg for name, value in sorted(settings(database).items()) for arg in ("-c", f"{name}={value}")],
        "env": [
            {"name": "POSTGRES_USER", "value": names.SUPERUSER},
            {"name": "POSTGRES_DB", "value": names.DATABASE_NAME},
            {"name": "POSTGRES_PASSWORD_FILE", "value": f"{SECRET}/password"},
            # UTF-8 whatever the image's locale: normalize(), which composes labels, takes no other encoding.
            {"name": "POSTGRES_INITDB_ARGS", "value": "--data-checksums --auth-host=scram-sha-256 --encoding=UTF8"},
            # A folder below the mount: a new volume may contain lost+found, and initdb needs an empty folder.
            {"name": "PGDATA", "value": f"{DATA}/18/docker"},
        ],
        "ports": [{"name": "postgres", "containerPort": PORT, "protocol": "TCP"}],
        # Ready over TCP only: during initdb a temporary server answers on the socket.
        "startupProbe": {"exec": {"command": alive}, "periodSeconds": 1, "failureThreshold": 300},
        "readinessProbe": {"exec": {"command": alive}, "periodSeconds": 5, "timeoutSeconds": 5},
        "resources": resources or RESOURCES,
        "securityContext": common.restricted_container(),
        "volumeMounts": [
            {"name": "data", "mountPath": DATA},
            {"name": "superuser", "mountPath": SECRET, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
