"""How a user's connection URI is read."""

import psycopg
import pytest
from intake_shared.redaction import one_line
from intake_shared.uris import read

from tests.uris import READ, REFUSED, Case, places, quoted


@pytest.mark.parametrize("case", READ, ids=lambda case: case.uri)
def test_a_uri_leads_where_the_table_says(case: Case) -> None:
    assert places(read(case.uri)) == case.libpq


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.uri)
def test_what_would_be_misread_is_refused_without_a_word_of_it(case: Case) -> None:
    with pytest.raises(psycopg.ProgrammingError) as caught:
        read(case.uri)
    message = one_line(caught.value)
    assert case.refusal in message
    assert quoted(message) == []
    assert caught.value.__cause__ is None, "a traceback would show libpq's error, which quotes the password"
