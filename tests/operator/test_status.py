"""The words of a resource's status, and that nothing is written twice."""

from amino.contracts.services import MicroserviceInfo
from amino.errors import Invalid, NoEligibleServer
from amino.manifests.applying import Applied
from amino.operator.status import Conditions, after_applying, after_refusal, as_seen

T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"


def seen(state="active", servers=("s1",)):
    return MicroserviceInfo("id", "x", "a:B", state, 3, servers, ())


def merged(status, change):
    return {**status, **change}


def test_a_status_grows_from_refusal_to_readiness():
    """Refused, then waiting, then created, then ready: each step says only what is new."""
    status, conditions = {}, Conditions({})
    status = merged(status, after_refusal(status, conditions, Invalid("wrong"), generation=1, now=T1))
    assert (status["state"], status["conditions"][0]["reason"]) == ("refused", "Invalid")
    status = merged(status, after_refusal(status, conditions, NoEligibleServer("none"), generation=2, now=T2))
    assert (status["state"], status["conditions"][0]["reason"]) == ("waiting", "NoEligibleServer")
    assert status["conditions"][0]["lastTransitionTime"] == T1  # it was False before, too
    status = merged(status, after_applying(status, conditions, Applied("created", "id"), generation=3, now=T2))
    assert (status["state"], status["id"], status["observedGeneration"]) == ("creating", "id", 3)
    assert status["conditions"][0]["lastTransitionTime"] == T2
    status = merged(status, as_seen(status, conditions, seen(), generation=3, now=T2))
    assert (status["state"], status["where"], status["epoch"]) == ("active", "s1", 3)
    assert [each["type"] for each in status["conditions"]] == ["Applied", "Ready"]
    assert as_seen(status, conditions, seen(), generation=3, now="later") == {}


def test_a_refused_change_leaves_the_state_of_what_runs():
    """What runs goes on, whatever was wrong with the change."""
    status, conditions = {"id": "id", "state": "active"}, Conditions({})
    change = after_refusal(status, conditions, Invalid("wrong"), generation=2, now=T1)
    assert "state" not in change


def test_an_application_is_defined():
    """It has no id and no readiness."""
    status = {"state": "refused"}
    change = after_applying(status, Conditions(status), Applied("defined"), generation=1, now=T1)
    assert (change["state"], "id" in change) == ("defined", False)


def test_handlers_do_not_undo_each_other():
    """Each writes all conditions as last written, even if what it has read is older."""
    stale, conditions = {"id": "id"}, Conditions({})
    after_applying(stale, conditions, Applied("created", "id"), generation=1, now=T1)
    change = as_seen(stale, conditions, seen("lost", ()), generation=1, now=T2)
    assert {each["type"]: each["status"] for each in change["conditions"]} == {"Applied": "True", "Ready": "False"}


def test_many_servers_are_shown_in_short():
    """The column has three names without their domain; the list has all of them, to a bound."""
    names = tuple(f"amino-{number}.amino-peers.amino.svc" for number in range(150))
    change = as_seen({}, Conditions({}), seen(servers=names), generation=1, now=T1)
    assert change["where"].count(",") == 3
    assert change["where"].startswith("amino-0,amino-1,")
    assert len(change["servers"]) == 100
