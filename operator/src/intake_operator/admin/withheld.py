"""The part of the admin API that withholds slots from sale, returns and lists them."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Final, Self

from aiohttp import web
from pydantic import Field, model_validator

from intake_operator import names
from intake_operator.admin.answers import answer
from intake_operator.admin.authorizer import User
from intake_operator.admin.requests import MOST_IDS, Reasoned, body, page
from intake_operator.admin.service import AdminService
from intake_operator.database import withheld
from intake_operator.model.observed import Event
from intake_operator.workqueue import Key

logger = logging.getLogger(__name__)

WITHHELD: Final = "withheld"
"""The subresource that a role has to allow."""
# As intake.withhold_slots takes them: claims wait meanwhile.
MOST_SLOTS: Final = 10_000

# In the order of the answer, as JSON names.
OUTCOMES: Final = {
    "withhold": {"withheld": "withheld", "already": "already", "claimed": "claimed", "unknown": "unknown"},
    "return": {"returned": "returned", "not_withheld": "notWithheld", "unknown": "unknown"},
}

type Action = Callable[[web.Request, Event, User], Awaitable[web.Response]]
type Authorized = Callable[[str, str, Action], Callable[[web.Request], Awaitable[web.Response]]]


type Seat = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
type Span = Annotated[str, Field(strict=True, pattern=r"^[1-9][0-9]{0,7}(-[1-9][0-9]{0,7})?$")]


class Slots(Reasoned):
    """These slots, by their seats' names (label or resource id), by their numbers, or both."""

    seats: Annotated[list[Seat], Field(max_length=MOST_IDS, default_factory=list)]
    slots: Annotated[list[Span], Field(max_length=MOST_IDS, default_factory=list)]
    """Numbers and ranges of them: `205`, `1-100`."""

    @model_validator(mode="after")
    def _some_and_not_too_many(self) -> Self:
        spans = [_span(text) for text in self.slots]
        if any(not span for span in spans):
            raise ValueError("a range of slots begins with its smaller number")
        if not 1 <= len(self.seats) + sum(map(len, spans)) <= MOST_SLOTS:
            raise ValueError(f"name 1 to {MOST_SLOTS} slots, as seats or as slots")
        return self

    def numbers(self) -> set[int]:
        """The slots that are given by their numbers."""
        return {number for text in self.slots for number in _span(text)}


def routes(
    prefix: str, service: AdminService, authorized: Authorized, wake: Callable[[Key], None]
) -> Iterable[web.RouteDef]:
    """The routes below an event; `wake` puts it on the work queue after a change."""

    async def listed(request: web.Request, event: Event, _: User) -> web.Response:
        wanted = page(request)
        async with service.database(event, names.SUPERUSER) as connection:
            found = await withheld.page(connection, event.pool, wanted.limit, wanted.continue_ or 0)
        more = {"continue": str(found[-1].slot)} if len(found) == wanted.limit else {}
        return answer("WithheldSlotList", metadata=more, items=[each.shown() for each in found])

    async def withhold(request: web.Request, event: Event, user: User) -> web.Response:
        return answer("Withholding", **await changed("withhold", await body(request, Slots), event, user))

    async def give_back(request: web.Request, event: Event, user: User) -> web.Response:
        return answer("Return", **await changed("return", await body(request, Slots), event, user))

    async def changed(action: str, wanted: Slots, event: Event, user: User) -> dict[str, Any]:
        call = withheld.withhold if action == "withhold" else withheld.give_back
        async with service.database(event, names.SUPERUSER) as connection:
            named = await withheld.find(connection, event.pool, wanted.seats) if wanted.seats else {}
            slots = sorted(wanted.numbers() | {slot for slot in named.values() if slot is not None})
            became = await call(connection, event.pool, slots, user.name, wanted.reason) if slots else {}
        wake((event.namespace, event.name))
        done: dict[str, Any] = {
            name: sorted(slot for slot, outcome in became.items() if outcome == word)
            for word, name in OUTCOMES[action].items()
        }
        done["unknownSeats"] = sorted(seat for seat, slot in named.items() if slot is None)
        counts = ", ".join(f"{len(slots)} {name}" for name, slots in done.items() if slots)
        extra = {"namespace": event.namespace, "event": event.name, "actor": user.name, "reason": wanted.reason}
        logger.info("%s slots: %s", action, counts, extra=extra)
        return done

    return [
        web.get(f"{prefix}/withheld", authorized("get", WITHHELD, listed)),
        web.post(f"{prefix}/withheld/withhold", authorized("update", WITHHELD, withhold)),
        web.post(f"{prefix}/withheld/return", authorized("update", WITHHELD, give_back)),
    ]


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
