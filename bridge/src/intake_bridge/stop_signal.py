"""How the loops of a worker are told to stop."""

import asyncio


class StopSignal:
    """Set once, by SIGTERM. Pauses end early when it is set, or when there is something new to do."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._stop.is_set()

    def set(self) -> None:
        """Stop, and end all pauses."""
        self._stop.set()
        self._wake.set()

    def wake(self) -> None:
        """End the pause that is under way."""
        self._wake.set()

    async def wait(self) -> None:
        """Return when it is set."""
        await self._stop.wait()

    async def pause(self, seconds: float) -> None:
        """Wait, unless woken or stopped."""
        self._wake.clear()
        if self._stop.is_set():
            return
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return
