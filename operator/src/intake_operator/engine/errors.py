"""What a database says when something goes wrong, short enough for a condition."""


def brief(error: BaseException) -> str:
    """The first line of an error, its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
