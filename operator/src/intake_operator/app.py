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
from intake_operator.kube.cached import Cached, Live
from intake_operator.kube.client import connect
from intake_operator.kube.store import Change, Store
from intake_operator.kube.watches import WATCHED, Watches
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.ledger.pools import Pools
from intake_operator.ledger.proof import Proofs
from intake_operator.long_reads import LongReads
from intake_operator.metrics import Metrics
from intake_operator.observe import Observer
from intake_operator.preflight.checks import Checks, Hosts
from intake_operator.preflight.preflights import Preflights
from intake_operator.reconcile import Reconciler, utc_now
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
    metrics = Metrics()
    cluster = await connect(metrics.request)
    migrations = migrate.load(settings.sql_dir / "intake")
    databases = Databases(migrations)
    cluster_domain = settings.cluster_domain or domain_of(RESOLV_CONF.read_text()) or CLUSTER_DOMAIN
    queue = WorkQueue(monotonic, workers=settings.workers)
    # Each kind has places of its own: what decides about a removal does not wait for a table that does not answer.
    long_reads = {
        "inventory": LongReads(queue.add),
        "ledger": LongReads(queue.add),
        "comparison": LongReads(queue.add, most=4, most_of_a_namespace=1),
    }
    metrics.expose_load(queue.load, {kind: reads.load for kind, reads in long_reads.items()})
    inventories = Inventories(cluster, databases, monotonic, long_reads["inventory"])

    def tell(change: Change) -> None:
        wake(change)

    store = Store(WATCHED, settings.namespaces, tell)
    live = Live(cluster, store, monotonic)
    cached = Cached(live, store)
    watches = Watches(cluster, store, metrics, monotonic)

    def drop(key: Key) -> None:
        queue.forget(key)
        metrics.forget(key)

    consistencies = ConsistencyChecks(monotonic, long_reads["comparison"])
    ledgers = LedgerChecks(monotonic)
    pools = Pools(cached, live, monotonic, long_reads["ledger"], settings.namespaces, cluster_domain)
    installation = Installation(
        BridgeImage(settings.bridge_image, settings.bridge_pull_policy, settings.bridge_traces_endpoint),
        settings.guard,
        settings.defaults,
        settings.fixed_ids,
        settings.operator_namespace,
    )
    checks = Checks(live, ledgers, inventories, pools, installation, Hosts())
    preflights = Preflights(checks, monotonic, queue.add, utc_now)
    reconciler = Reconciler(
        cluster=live,
        observer=Observer(
            cached,
            databases,
            ledgers,
            inventories,
            consistencies,
            Proofs(databases, monotonic, long_reads["ledger"]),
            pools,
            preflights,
        ),
        actor=Actor(live, databases, inventories, consistencies, Applier(live), preflights, cluster_domain),
        installation=installation,
        metrics=metrics,
        drop=drop,
    )
    wake = watch.waker(queue, reconciler.forget)
    health = probes.Health(queue.load, watches.stuck, lambda: store.ready)
    server = await probes.serve(settings.http_port, metrics, monotonic, health)
    service = AdminService(cluster, consistencies, settings.namespaces)
    listen = admin.Listen(settings.admin_port, settings.admin_tls_port, settings.admin_tls_dir)
    admin_server = await admin.serve(admin.application(Authorizer(cluster), service, queue.add), listen)
    logger.info(
        "intake-operator %s started; SQL version %s; %s; cluster domain: %s",
        version("intake-operator"),
        migrate.version(migrations),
        settings.summary(),
        cluster_domain,
    )
    tasks = [
        asyncio.create_task(watches.run()),
        asyncio.create_task(probes.warn_of_starvation(queue.load)),
        *(asyncio.create_task(queue.work(reconciler.reconcile)) for _ in range(queue.workers)),
    ]
    try:
        await kopf.operator(
            registry=watch.registry(store),
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
        await preflights.close()
        await databases.close_all()
        await cluster.close()
        await server.cleanup()
