"""The bodies and queries of requests, validated before DB1 or the ledger is asked."""

from typing import Annotated, Final

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from intake_operator.admin.answers import RefusedError

# Discarding calls the ledger once for each id, and a request should end within seconds.
MOST_IDS: Final = 500
# Payload and validation of a claim have at most 64 KiB each.
MOST_PAYLOADS: Final = 100
LONGEST_PAGE: Final = 1000
LARGEST_ID: Final = 2**63 - 1


def _one_line(text: str) -> str:
    if not (text := text.strip()):
        raise ValueError("give a reason; it is kept in the audit")
    if not text.isprintable():
        raise ValueError("give one line of printable text")
    return text


type Identity = Annotated[int, Field(strict=True, ge=1, le=LARGEST_ID)]


class Reasoned(BaseModel):
    """A change, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)

    reason: Annotated[str, Field(strict=True, max_length=1000), AfterValidator(_one_line)]


class _Request(Reasoned):
    ids: Annotated[list[Identity], Field(min_length=1, max_length=MOST_IDS)]


class Replay(_Request):
    """Put these dead letters back on the queue."""


class Discard(_Request):
    """Void these claims and free their slots."""

    ledger_checked: Annotated[bool, Field(strict=True)] = False
    """The caller has checked that the ledger does not hold these sales. Only for a ledger that cannot void a claim."""
    return_conflicts: Annotated[bool, Field(strict=True)] = False
    """Put the slots of conflicts on sale again, too. Otherwise they are withheld: another sale has one of them."""


class Payloads(_Request):
    """Show what callers and the validator have sent along with these claims."""

    ids: Annotated[list[Identity], Field(min_length=1, max_length=MOST_PAYLOADS)]


class Page(BaseModel):
    """One page of a list: at most `limit` entries, after the entry whose id is `continue`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = 100
    continue_: Annotated[int | None, Field(ge=0, le=LARGEST_ID, alias="continue")] = None


async def body[Model: BaseModel](request: web.Request, model: type[Model]) -> Model:
    """The JSON of a request. Raises RefusedError 400, 413, 415 or 422."""
    if request.content_type != "application/json":
        raise RefusedError(415, "UnsupportedMediaType", "send JSON with `Content-Type: application/json`")
    try:
        content = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise RefusedError(413, "RequestEntityTooLarge", f"send at most {MOST_IDS} ids or seats at a time") from error
    except web.RequestPayloadError as error:
        raise RefusedError(
            400, "BadRequest", "the body does not match its Content-Encoding or Content-Length"
        ) from error
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _refused(error) from error


def page(request: web.Request) -> Page:
    """The query of a list. Raises RefusedError 422."""
    try:
        return Page.model_validate(dict(request.query))
    except ValidationError as error:
        raise _refused(error) from error


def _refused(error: ValidationError) -> RefusedError:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if any(each["type"] == "json_invalid" for each in found):
        return RefusedError(400, "BadRequest", f"the body is not JSON: {found[0]['msg']}")
    causes = [(".".join(str(part) for part in each["loc"]), each["msg"]) for each in found[:10]]
    all_causes = "; ".join(f"{field}: {message}" for field, message in causes)
    return RefusedError(422, "Invalid", f"the request is not valid: {all_causes}", causes=causes)
