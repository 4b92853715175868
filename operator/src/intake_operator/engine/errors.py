"""What a database says when something goes wrong, short enough for a condition."""


def brief(error: BaseException) -> str:
    """The first line of an error, its kind where it says nothing."""
    kind = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return (str(error).strip().splitlines() or [kind])[0][:300]
