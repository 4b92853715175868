"""Workers as real processes that start at once: one process imports the bridge and forks for each.

`python worker_processes.py [mutant]` reads one worker's environment a line (JSON), and writes a line for each start,
stop (SIGSTOP) and end. When its input ends it kills what is left.
"""

import asyncio
import json
import os
import random
import select
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

FOLDERS = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]  # of sale.py, and of tests/


class WorkerProcess:
    """One worker."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.pid = 0
        self.started = asyncio.Event()
        self.stopped = asyncio.Event()
        self.ended = asyncio.Event()
        self.status = 0

    @property
    def killed(self) -> bool:
        """Ended by SIGKILL."""
        return self.ended.is_set() and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    @property
    def exit_code(self) -> int:
        """The exit code of one that has ended; negative for a signal."""
        return os.waitstatus_to_exitcode(self.status)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self.ended.is_set():
            if number is signal.SIGCONT:
                self.stopped.clear()
            with suppress(ProcessLookupError):  # it has ended, and we will read so soon
                os.kill(self.pid, number)

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def logged(self, *messages: str) -> int:
        """How often it has logged one of these."""
        return sum(line["message"] in messages for line in self.lines())


class WorkerProcesses:
    """The client side, in the test's process."""

    def __init__(self, logs: Path, mutant: str | None = None) -> None:
        self._logs = logs
        self._mutant = mutant
        self._started: list[WorkerProcess] = []
        self._by_pid: dict[int, WorkerProcess] = {}

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            *([self._mutant] if self._mutant else []),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._news = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._news

    async def start(self, environment: Mapping[str, str]) -> WorkerProcess:
        """A worker; returns when it has been forked."""
        process = WorkerProcess(self._logs / f"worker-{len(self._started) + 1}.log")
        process.log.touch()
        self._started.append(process)
        assert self._process.stdin is not None
        order = {"process": len(self._started) - 1, "log": str(process.log), "environment": dict(environment)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(120):
            await process.started.wait()
        return process

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            news = json.loads(line)
            match news["what"]:
                case "started":
                    process = self._started[news["process"]]
                    process.pid = news["pid"]
                    self._by_pid[process.pid] = process
                    process.started.set()
                case "stopped":
                    self._by_pid[news["pid"]].stopped.set()
                case "ended":
                    process = self._by_pid.pop(news["pid"])
                    process.status = news["status"]
                    process.ended.set()


# --- what runs in the process that forks ---


def _become_worker(order: Mapping[str, Any]) -> NoReturn:
    """In the fork: run a worker, as `intake-bridge` does."""
    from faulty_bridge import wrapped  # noqa: PLC0415 - a mutant may have to be installed before
    from intake_bridge.process import run  # noqa: PLC0415 - likewise
    from sale import TUNING  # noqa: PLC0415 - likewise

    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as `intake-bridge` does until it has begun
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(os.open(order["log"], os.O_WRONLY | os.O_APPEND), 2)
        os.environ.clear()
        os.environ.update(order["environment"])
        if "KILLER" in os.environ:
            _die_with_claim_of(os.environ["KILLER"])
        random.seed()  # the parent's state would give every worker the same jitter
        code = asyncio.run(run(TUNING, wrapped(os.environ.get("FAULTS", ""))))
    finally:
        os._exit(code)


def _die_with_claim_of(user: str) -> None:
    """Have this process exit at the ledger when a claim of this user is in the batch."""
    from intake_bridge.adapters.ledger_postgres import PostgresLedger  # noqa: PLC0415 - as above
    from intake_bridge.adapters.ledger_webhook import WebhookLedger  # noqa: PLC0415 - likewise

    def deadly(call: Any) -> Any:  # noqa: ANN401 - a method of a ledger
        async def at_the_ledger(self: Any, messages: Any, gate: Any) -> Any:  # noqa: ANN401 - likewise
            if any(message.user_id == user for message in messages):
                await asyncio.sleep(0.1)  # as when memory fills: what else this bridge does goes on
                os._exit(9)
            return await call(self, messages, gate)

        return at_the_ledger

    for ledger in (PostgresLedger, WebhookLedger):
        for name in ("commit", "void"):
            setattr(ledger, name, deadly(getattr(ledger, name)))


def _write(**news: Any) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


def _fork_loop() -> None:
    """Fork a worker for each line, and write when it starts, stops and ends."""
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    alive: set[int] = set()
    orders = b""
    while True:
        ready, _, _ = select.select([0, wakes], [], [])
        if wakes in ready:
            os.read(wakes, 4096)
        if 0 in ready:
            read = os.read(0, 65536)
            if not read:
                break
            *lines, orders = (orders + read).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _become_worker(order)
                alive.add(pid)
                _write(what="started", process=order["process"], pid=pid)
        while alive:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                _write(what="stopped", pid=pid)
            else:
                alive.discard(pid)
                _write(what="ended", pid=pid, status=status)
    for pid in alive:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.path[:0] = FOLDERS
    if len(sys.argv) > 1:
        from mutants import install

        install(sys.argv[1])
    import faulty_bridge  # noqa: F401 - once for all workers
    import sale  # noqa: F401 - likewise

    _fork_loop()
