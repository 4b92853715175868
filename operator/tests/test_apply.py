"""Server-side apply: what is skipped, what is refused, what is forgotten."""

import pytest
from given import make_event, make_observed
from intake_operator import names
from intake_operator.kube.apply import Applier, NotOursError
from intake_operator.model.observed import ChildKey, Event, Manifest


class Api:
    """An API server that stores what is applied and counts the requests."""

    def __init__(self) -> None:
        self.objects: dict[ChildKey, Manifest] = {}
        self.requests = 0
        self.sent: list[Manifest] = []

    async def get(self, kind: str, _: str, name: str) -> Manifest | None:
        return self.objects.get((kind, name))

    async def apply(self, manifest: Manifest, _: str) -> Manifest:
        self.requests += 1
        self.sent.append(manifest)
        meta = {"uid": "made"} | manifest["metadata"] | {"resourceVersion": str(self.requests)}
        self.objects[manifest["kind"], meta["name"]] = applied = manifest | {"metadata": meta}
        return applied


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def applier(api: Api) -> Applier:
    return Applier(api)  # type: ignore[arg-type]


def children(event: Event) -> dict[ChildKey, Manifest]:
    """Every kind of child."""
    return dict(make_observed(event).children)


async def apply_all(applier: Applier, api: Api, event: Event) -> list[ChildKey]:
    """Apply all children of an event; the keys of those that were sent."""
    wanted = children(event)
    return [key for key in wanted if await applier.apply(event, wanted[key], api.objects.get(key))]


async def test_a_child_that_did_not_change_is_sent_once(applier: Applier, api: Api) -> None:
    event = make_event()
    assert await apply_all(applier, api, event) == list(children(event))
    assert await apply_all(applier, api, event) == []


async def test_a_child_that_another_client_changed_is_sent_again(applier: Applier, api: Api) -> None:
    event, key = make_event(), ("Service", "taylor-drop-rw")
    await apply_all(applier, api, event)
    api.objects[key] |= {"spec": api.objects[key]["spec"] | {"clusterIP": "None"}}
    assert await apply_all(applier, api, event) == [key]


async def test_a_child_whose_status_changes_is_not_sent_again(applier: Applier, api: Api) -> None:
    event, key = make_event(), ("StatefulSet", "taylor-drop-db")
    await apply_all(applier, api, event)
    api.objects[key] |= {"status": {"replicas": 1}}
    api.objects[key]["metadata"] |= {"resourceVersion": "changed", "managedFields": [{"manager": "controller"}]}
    assert await apply_all(applier, api, event) == []


async def test_a_child_that_is_there_is_applied_to_this_one_object(applier: Applier, api: Api) -> None:
    """One that was seen may be gone: without the uid, an apply would create a Secret that has no password."""
    event, key = make_event(), ("Service", "taylor-drop-rw")
    await apply_all(applier, api, event)
    applier.forget(event.uid)
    await apply_all(applier, api, event)
    first, second = (sent for sent in api.sent if (sent["kind"], sent["metadata"]["name"]) == key)
    assert "uid" not in first["metadata"]
    assert second["metadata"]["uid"] == "made"


async def test_an_event_that_is_gone_is_forgotten_with_every_child_and_no_other_event_is(
    applier: Applier, api: Api
) -> None:
    gone, stays = make_event(name="drop", uid="1"), make_event(name="drop-2", uid="2")
    for event in (gone, stays):
        await apply_all(applier, api, event)
    applier.forget(gone.uid)
    assert await apply_all(applier, api, gone) == list(children(gone)), "data-drop-db-0 as well"
    assert await apply_all(applier, api, stays) == []


async def test_an_object_of_another_owner_is_refused_and_left_alone(applier: Applier, api: Api) -> None:
    event, key = make_event(), ("Service", "taylor-drop-rw")
    api.objects[key] = {"kind": "Service", "metadata": {"name": key[1], "labels": {names.EVENT_UID_LABEL: "other"}}}
    with pytest.raises(NotOursError, match="Service taylor-drop-rw exists and belongs to an earlier IntakeEvent"):
        await applier.apply(event, children(event)[key], None)
    assert api.requests == 0
