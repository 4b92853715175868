"""One bridge as a process: settings, logs, signals, and the worker."""

import asyncio
import os
import signal
import sys

from intake_shared import logs
from pydantic import ValidationError

from intake_bridge.observability.tracing import tracing
from intake_bridge.ports import Wrap
from intake_bridge.settings import MissingSettingError, load
from intake_bridge.tuning import Tuning
from intake_bridge.worker import Worker


async def run(tuning: Tuning | None = None, wrap: Wrap | None = None) -> int:
    """Returns the exit code: 0 after a signal, 2 for settings that cannot work. Tests give a tuning and a wrap."""
    try:
        settings, secrets = await load()
    except (MissingSettingError, ValidationError) as error:
        sys.stderr.write(f"intake-bridge: {error}\n")
        return 2
    logs.configure(settings.log_level, "intake_bridge", worker=settings.worker)
    traces = tracing(os.environ, settings.worker, settings.pool)
    worker = Worker(settings, secrets, tuning, traces, wrap)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    try:
        await worker.run()
    finally:
        await traces.close()
    return 0
