"""What a database says when something goes wrong, short enough for a condition."""

from typing import Final


def brief(error: BaseException) -> str:
    """The first line of an error, its kind where it says nothing."""
    kind = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return (str(error).strip().splitlines() or [kind])[0][:300]


# As the server words SQLSTATE 53300; of a connection that was refused, libpq keeps only the words.
_NO_CONNECTION_LEFT: Final = ("too many clients already", "connection slots are reserved", "too many connections for")


def no_connection_left(error: BaseException) -> bool:
    """Whether a server refused us because it has no connection left for us."""
    return any(words in str(error) for words in _NO_CONNECTION_LEFT)
