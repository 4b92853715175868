"""Start the operator: `intake-operator` or `python -m intake_operator`."""

import asyncio
import signal
import sys


def main() -> None:
    """The console script.

    Process 1 of a container gets no signal that it has no handler for, and the imports take seconds on a busy node:
    until the real handler is there, SIGTERM ends a process that has not begun anything.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from intake_shared import logs  # noqa: PLC0415 -- after the handler

    from intake_operator import app, kopf_log  # noqa: PLC0415
    from intake_operator.settings import Settings, SettingsError  # noqa: PLC0415

    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        sys.exit(f"intake-operator does not start, because a setting is wrong: {error}")
    logs.configure(settings.log_level, "intake_operator")
    kopf_log.install()
    asyncio.run(app.run(settings))


if __name__ == "__main__":
    main()
