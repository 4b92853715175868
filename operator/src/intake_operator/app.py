"""Builds all parts and runs them; the only module that imports all the others."""

import asyncio
import logging
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
from intake_operator.metrics import Metrics
from intake_operator.observe import Observer
from intake_operator.preflight.checks import Checks, Hosts
from intake_operator.preflight.preflights import Preflights
from intake_operator.reconcile import Reconciler, utc_now
from intake_operator.settings import Settings
from intake_operator.workqueue import Key, WorkQueue

# The kubelet writes it. It says how the names of Services end.
RESOLV_CONF: Final = Path("/etc/resolv.conf")

logger = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Run until SIGTERM. Every step can be interrupted, so a running pass is not waited for."""
    cluster = await connect()
    databases = Databases(migrate.load(settings.sql_dir / "intake"))
    inventories = Inventories(cluster, databases, monotonic)
    cluster_domain = settings.cluster_domain or domain_of(RESOLV_CONF.read_text()) or CLUSTER_DOMAIN
    queue = WorkQueue(monotonic)
    metrics = Metrics()

    def drop(key: Key) -> None:
        queue.forget(key)
        metrics.forget(key)

    consistencies = ConsistencyChecks(monotonic, queue.add)
    ledgers, pools = LedgerChecks(monotonic), Pools(cluster, monotonic, settings.namespaces, cluster_domain)
    installation = Installation(
        BridgeImage(settings.bridge_image, settings.bridge_pull_policy, settings.bridge_traces_endpoint),
        settings.guard,
        settings.defaults,
        settings.fixed_ids,
    )
    checks = Checks(cluster, ledgers, inventories, pools, installation, Hosts())
    preflights = Preflights(checks, monotonic, queue.add, utc_now)
    reconciler = Reconciler(
        cluster=cluster,
        observer=Observer(
            cluster,
            databases,
            ledgers,
            inventories,
            consistencies,
            Proofs(databases, monotonic),
            pools,
            preflights,
        ),
        actor=Actor(cluster, databases, inventories, consistencies, Applier(cluster), preflights, cluster_domain),
        installation=installation,
        metrics=metrics,
        drop=drop,
    )
    server = await probes.serve(settings.http_port, metrics, monotonic, queue.busy)
    service = AdminService(cluster, consistencies, settings.namespaces)
    listen = admin.Listen(settings.admin_port, settings.admin_tls_port, settings.admin_tls_dir)
    admin_server = await admin.serve(admin.application(Authorizer(cluster), service, queue.add), listen)
    logger.info(
        "intake-operator %s started; %s; cluster domain: %s",
        version("intake-operator"),
        settings.summary(),
        cluster_domain,
    )
    workers = [asyncio.create_task(queue.work(reconciler.reconcile)) for _ in range(settings.workers)]
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
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await admin_server.cleanup()
        await consistencies.close()
        await preflights.close()
        await databases.close_all()
        await cluster.close()
        await server.cleanup()
