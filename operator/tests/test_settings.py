"""What the operator says of its settings."""

from pathlib import Path
from typing import Any

import pytest
from intake_operator.settings import Settings


@pytest.mark.parametrize(
    ("settings", "summary"),
    [
        (
            {},
            "namespaces: all; bridge image: intake-engine/bridge:dev; metrics and probes on port 8080; "
            "admin API on 127.0.0.1:8081",
        ),
        (
            {"namespaces": "north,south", "admin_tls_dir": Path("/tls")},
            "namespaces: north, south; bridge image: intake-engine/bridge:dev; metrics and probes on port 8080; "
            "admin API on 127.0.0.1:8081 and with TLS on port 8443",
        ),
        (
            {"admin_port": 0, "bridge_image": "registry/bridge:1"},
            "namespaces: all; bridge image: registry/bridge:1; metrics and probes on port 8080; admin API off",
        ),
    ],
)
def test_the_first_log_line_says_what_is_served_and_where(settings: dict[str, Any], summary: str) -> None:
    assert Settings(**settings).summary() == summary
