"""Builds all parts and runs them; the only module that imports all the others."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Final

import kopf

from intake_operator import names, probes, watch
from intake_operator.act import Actor
from intake_operator.addresses import domain_of
from intake_operator.admin import server as admin
from intake_operator.admin.authorizer import Authorizer
from intake_operator.admin.service import AdminService
from intake_operator.children.installation import CLUSTER_DOMAIN, BridgeImage, Installation
from intake_operator.database import migrate
from intake_operator.database.databases import Databases
from intake_operator.inventory.inventories import Inventories
from intake_operator.kube.apply import Applier
from intake_operator.kube.client import connect
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.ledger.pools import Pools
from intake_operator.ledger.proof import Proofs
from intake_operator.long_reads import LongReads
from intake_operator.metrics import Metrics
from intake_operator.observe import Observer
from intake_operator.reconcile import Reconciler
from intake_operator.settings import Settings
from intake_operator.workqueue import Key, WorkQueue

# The kubelet writes it. It says how the names of Services end.
RESOLV_CONF: Final = Path("/etc/resolv.conf")
# Host names that are resolved at the same time. A thread is made when it is needed.
RESOLVING: Final = 128

logger = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Run until SIGTERM. Every step can be interrupted, so a running pass is not waited for."""
    # Threads resolve host names. One whose name server does not answer is lost for longer than its caller waits.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(RESOLVING))
    cluster = await connect()
    databases = Databases(migrate.load(settings.sql_dir / "intake"))
    cluster_domain = settings.cluster_domain or domain_of(RESOLV_CONF.read_text()) or CLUSTER_DOMAIN
    queue = WorkQueue(monotonic, workers=settings.workers)
    # Each kind has places of its own: what decides about a removal does not wait for a table that does not answer.
    long_reads = {
        "inventory": LongReads(queue.add),
        "ledger": LongReads(queue.add),
        "comparison": LongReads(queue.add, most=4, most_of_a_namespace=1),
    }
    inventories = Inventories(cluster, databases, monotonic, long_reads["inventory"])
    metrics = Metrics()
    metrics.expose_load(queue.load, {kind: reads.load for kind, reads in long_reads.items()})

    def drop(key: Key) -> None:
        queue.forget(key)
        metrics.forget(key)

    consistencies = ConsistencyChecks(monotonic, long_reads["comparison"])
    reconciler = Reconciler(
        cluster=cluster,
        observer=Observer(
            cluster,
            databases,
            LedgerChecks(monotonic),
            inventories,
            consistencies,
            Proofs(databases, monotonic, long_reads["ledger"]),
            Pools(cluster, monotonic, long_reads["ledger"], settings.namespaces, cluster_domain),
        ),
        actor=Actor(cluster, databases, inventories, consistencies, Applier(cluster), cluster_domain),
        installation=Installation(
            BridgeImage(settings.bridge_image, settings.bridge_pull_policy, settings.bridge_traces_endpoint),
            settings.guard,
            settings.defaults,
            settings.fixed_ids,
            settings.operator_namespace,
        ),
        metrics=metrics,
        drop=drop,
    )
    server = await probes.serve(settings.http_port, metrics, monotonic, queue.load)
    service = AdminService(cluster, consistencies, settings.namespaces)
    listen = admin.Listen(settings.admin_port, settings.admin_tls_port, settings.admin_tls_dir)
    admin_server = await admin.serve(admin.application(Authorizer(cluster), service, queue.add), listen)
    logger.info(
        "intake-operator %s started; %s; cluster domain: %s",
        version("intake-operator"),
        settings.summary(),
        cluster_domain,
    )
    tasks = [asyncio.create_task(queue.work(reconciler.reconcile)) for _ in range(queue.workers)]
    tasks.append(asyncio.create_task(probes.warn_of_starvation(queue.load)))
    try:
        await kopf.operator(
            registry=watch.registry(queue, reconciler.forget),
            settings=watch.settings(),
            standalone=True,
            # Unused without peering; left out, kopf would look up the name of a user that has none.
            identity=names.FIELD_MANAGER,  # type: ignore[arg-type]
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await admin_server.cleanup()
        for reads in long_reads.values():
            await reads.close()
        await databases.close_all()
        await cluster.close()
        await server.cleanup()
