"""kopf's retries of a 429 are no errors; what it gives up is."""

import pytest
from intake_operator import kopf_log
from kopf._cogs.clients import errors, watching

THROTTLED = errors.APITooManyRequestsError(
    {"message": "storage is (re)initializing", "code": 429}, status=429, headers={}
)
DOWN = errors.APIServerError({"message": "down", "code": 500}, status=500, headers={})


@pytest.mark.parametrize(
    ("message", "level"),
    [
        (f"Request attempt #1/9 failed; will retry: GET https://api/x -> {THROTTLED!r}", "INFO"),
        (f"Request attempt #9/9 failed; escalating: GET https://api/x -> {THROTTLED!r}", "ERROR"),
        (f"Request attempt #1/9 failed; will retry: GET https://api/x -> {DOWN!r}", "ERROR"),
    ],
)
def test_a_request_that_the_api_server_asks_to_repeat_is_no_error(
    message: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    kopf_log.install()
    try:
        watching.logger.error(message)
    finally:
        for each in list(watching.logger.filters):
            watching.logger.removeFilter(each)
    assert [record.levelname for record in caplog.records] == [level]
