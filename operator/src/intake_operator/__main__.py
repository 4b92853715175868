"""Start the operator: `intake-operator` or `python -m intake_operator`."""

import asyncio

from intake_operator import app, logs
from intake_operator.settings import Settings


def main() -> None:
    """Run until told to stop."""
    settings = Settings()
    logs.configure(settings.log_level)
    asyncio.run(app.run(settings))


if __name__ == "__main__":
    main()
