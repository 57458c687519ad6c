"""The operator against a small API server of its own: what is applied comes to be, and status flows back."""

import asyncio
import queue
import re
import threading
from pathlib import Path

import kopf
import pytest

from amino.config import ClientConfig
from amino.contracts.services import MicroserviceInfo
from amino.errors import ClusterUnavailable, Invalid, NoEligibleServer, NotFound
from amino.manifests.applying import Applied
from amino.manifests.decoding import decode
from amino.operator.config import OperatorConfig
from amino.operator.microservices import manifest_from
from amino.operator.running import operate, settings
from amino.operator.scaling_machine import Demand
from tests.operator.api_server import NAMESPACE, ApiServer, Refused

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
PATIENCE_S = 60.0
FULL = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {name: hits, labels: {team: web}}
spec:
  class: shop.counter:Counter
  args: [100, {deep: [1, 2.5, null]}, text, [true]]
  kwargs: {step: 2}
  dms:
    - AtLeastOnceRPC: {timeout_s: 20}
    - PeriodicCheckpoint: {every: 10}
    - SerializableRPC
  placement:
    selector: [{key: region, operator: In, values: [eu]}]
    spread: [host]
  onLoss: recreate
"""
SHORT = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {name: NAME}
spec: {class: "a:B"}
"""
APPLICATION = """
apiVersion: amino.run/v1
kind: Application
metadata: {name: shop}
spec: {entry: {class: "shop:Entry", dms: [AtLeastOnceRPC]}}
"""


class Cluster:
    """Microservices in a dictionary; ``error`` is raised instead, as long as it is set."""

    def __init__(self):
        self.made = {}
        self.asked = []
        self.deleted = []
        self.error = None
        self.closed = False
        self.tried = threading.Event()

    def apply(self, kind, name, labels, spec, known):
        self.asked.append((kind, name, dict(labels), spec, known))
        self.tried.set()
        if self.error is not None:
            raise self.error
        if kind == "Application":
            return Applied("defined")
        if known:
            if known not in self.made:
                raise NotFound(f"no microservice {known}")
            return Applied("changed", known, ("onLoss: fail -> recreate",))
        self.made[f"id-{name}"] = MicroserviceInfo(f"id-{name}", name, spec["class"], "active", 1, ("s2", "s1"), ())
        return Applied("created", f"id-{name}")

    def delete(self, known):
        if self.error is not None:
            raise self.error
        self.deleted.append(known)
        return self.made.pop(known, None) is not None

    def seen_nowait(self, known):
        raise LookupError(known)

    def seen(self, known):
        return self.made.get(known)

    def demand(self):
        return Demand()

    def close(self):
        self.closed = True


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
async def kubernetes(cluster):
    """An API server with the operator at work on it."""
    async with ApiServer() as server:
        chosen = settings()
        chosen.networking.error_backoffs = [0.05]
        stop, serving = threading.Event(), threading.Event()
        config = OperatorConfig(client=ClientConfig(), namespaces=(NAMESPACE,), poll_s=0.05)

        async def login(**_):
            return kopf.ConnectionInfo(server=server.url)

        def run():  # on a loop of its own: at its end kopf cancels every task that it finds on its loop
            asyncio.run(
                operate(config, cluster, chosen=chosen, login=login, retry_s=0.02, stop_flag=stop, ready_flag=serving)
            )

        thread = threading.Thread(target=run, name="operator")
        thread.start()
        try:
            assert await asyncio.to_thread(serving.wait, PATIENCE_S)
            yield server
        finally:
            stop.set()
            await asyncio.to_thread(thread.join, PATIENCE_S)
        assert cluster.closed


def condition(found, kind):
    """Return a condition of an object, empty if it has none."""
    conditions = (found or {}).get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def ready(found):
    return condition(found, "Ready").get("status") == "True"


async def test_what_is_applied_comes_to_be_and_its_state_flows_back(kubernetes, cluster):
    """Arguments and managers arrive as written; status tells id, state and servers; kubectl wait would end."""
    await kubernetes.apply(FULL)
    found = await kubernetes.until("microservices", "hits", ready)
    [(kind, name, labels, spec, known)] = cluster.asked
    assert (kind, name, labels, known) == ("Microservice", "hits", {"team": "web"}, "")
    assert spec["args"] == [100, {"deep": [1, 2.5, None]}, "text", [True]]
    assert spec["dms"] == [
        {"AtLeastOnceRPC": {"timeout_s": 20}},
        {"PeriodicCheckpoint": {"every": 10}},
        "SerializableRPC",
    ]
    status = found["status"]
    assert (status["id"], status["state"], status["servers"], status["where"]) == (
        "id-hits",
        "active",
        ["s1", "s2"],
        "s1,s2",
    )
    assert (condition(found, "Applied")["reason"], status["observedGeneration"]) == ("Created", 1)
    assert found["metadata"]["finalizers"] == ["amino.run/operator"]
    assert kubernetes.forbidden == []


async def test_a_change_is_applied_to_what_runs(kubernetes, cluster):
    """A new spec goes to the microservice by its id, and status says what changed."""
    await kubernetes.apply(SHORT.replace("NAME", "one"))
    await kubernetes.until("microservices", "one", ready)
    await kubernetes.apply(SHORT.replace("NAME", "one").replace('"a:B"', '"a:B", onLoss: recreate'))
    found = await kubernetes.until("microservices", "one", lambda it: it["status"].get("observedGeneration") == 2)
    applied = condition(found, "Applied")
    assert (applied["reason"], applied["message"]) == ("Changed", "onLoss: fail -> recreate")
    assert cluster.asked[-1][3:] == ({"class": "a:B", "onLoss": "recreate"}, "id-one")


async def test_states_are_followed_and_a_quiet_cluster_writes_nothing(kubernetes, cluster):
    """A move and a loss show in status; while nothing changes nothing is written."""
    await kubernetes.apply(SHORT.replace("NAME", "one"))
    await kubernetes.until("microservices", "one", ready)
    cluster.made["id-one"] = MicroserviceInfo("id-one", "one", "a:B", "lost", 7, (), ())
    found = await kubernetes.until("microservices", "one", lambda it: it["status"].get("state") == "lost")
    assert "amino restore" in condition(found, "Ready")["message"]
    assert (found["status"]["epoch"], found["status"]["where"]) == (7, "")
    seen, looks = cluster.seen, queue.Queue()

    def telling(known):
        looks.put(known)
        return seen(known)

    cluster.seen = telling

    async def quiet():
        """Return whether nothing is written while states are looked at three times."""
        patches = kubernetes.patches
        for _ in range(3):
            await asyncio.to_thread(looks.get, timeout=PATIENCE_S)
        return kubernetes.patches == patches

    async with asyncio.timeout(PATIENCE_S):  # what was written last may not have come back to the operator yet
        while not await quiet():
            pass


async def test_what_is_gone_from_the_cluster_is_not_made_again(kubernetes, cluster):
    """State that may be recoverable is not papered over: the resource says that it is missing, also after a change of it."""
    await kubernetes.apply(SHORT.replace("NAME", "one"))
    await kubernetes.until("microservices", "one", ready)
    cluster.made.clear()
    found = await kubernetes.until("microservices", "one", lambda it: it["status"].get("state") == "missing")
    assert "etcd was lost" in condition(found, "Ready")["message"]
    await kubernetes.apply(SHORT.replace("NAME", "one").replace('"a:B"', '"a:B", onLoss: recreate'))
    await kubernetes.until("microservices", "one", lambda it: condition(it, "Applied").get("reason") == "NotFound")
    assert cluster.made == {}


async def test_what_breaks_a_rule_is_refused_once(kubernetes, cluster):
    """Amino's own words are in the status and in an event; it is tried again only when it is changed."""
    cluster.error = Invalid("every=0; give 1 or more")
    await kubernetes.apply(SHORT.replace("NAME", "one"))
    found = await kubernetes.until("microservices", "one", lambda it: condition(it, "Applied").get("status") == "False")
    assert condition(found, "Applied")["message"] == "every=0; give 1 or more"
    assert found["status"]["state"] == "refused"
    cluster.error = None
    assert len(cluster.asked) == 1
    await kubernetes.apply(SHORT.replace("NAME", "one").replace('"a:B"', '"a:B", onLoss: recreate'))
    found = await kubernetes.until("microservices", "one", ready)
    assert condition(found, "Applied")["reason"] == "Created"


async def test_what_cannot_be_yet_is_tried_again(kubernetes, cluster):
    """Without a server, or without the cluster: the resource waits, says why, and comes to be when it can."""
    cluster.error = NoEligibleServer("no server has region=eu")
    await kubernetes.apply(SHORT.replace("NAME", "one"))
    found = await kubernetes.until("microservices", "one", lambda it: condition(it, "Applied").get("status") == "False")
    assert (found["status"]["state"], condition(found, "Applied")["reason"]) == ("waiting", "NoEligibleServer")
    cluster.error = ClusterUnavailable("nobody answers")
    await kubernetes.until(
        "microservices", "one", lambda it: condition(it, "Applied").get("reason") == "ClusterUnavailable"
    )
    cluster.error = None
    await kubernetes.until("microservices", "one", ready)


async def test_deleting_a_resource_deletes_what_it_made(kubernetes, cluster):
    """By id, and only then is the resource gone; a failure is tried again."""
    await kubernetes.apply(SHORT.replace("NAME", "one"))
    await kubernetes.until("microservices", "one", ready)
    cluster.error = ClusterUnavailable("nobody answers")
    await kubernetes.delete("microservices", "one")
    cluster.error = None
    await kubernetes.until("microservices", "one", lambda it: it is None)
    assert cluster.deleted == ["id-one"]


async def test_a_resource_goes_whose_state_is_being_looked_at(kubernetes, cluster):
    """It goes soon after that look has ended, not at the next of rare rounds."""
    looks, may_end, is_gone = threading.Event(), threading.Event(), threading.Event()

    def seen(known):
        found = cluster.made.get(known)  # as before: a change of status would be news to look at
        looks.set()
        assert may_end.wait(PATIENCE_S)
        return found

    def delete(known):
        is_gone.set()
        return True

    await kubernetes.apply(SHORT.replace("NAME", "one"))
    await kubernetes.until("microservices", "one", ready)
    cluster.seen, cluster.delete = seen, delete
    try:
        assert await asyncio.to_thread(looks.wait, PATIENCE_S)
        await kubernetes.delete("microservices", "one")
        assert await asyncio.to_thread(is_gone.wait, PATIENCE_S)
    finally:
        may_end.set()
    await kubernetes.until("microservices", "one", lambda it: it is None, patience_s=30.0)


async def test_a_resource_can_go_alone(kubernetes, cluster):
    """The annotation keeps the microservice; and what never came to be deletes nothing."""
    await kubernetes.apply(SHORT.replace("name: NAME", "name: one, annotations: {amino.run/on-delete: keep}"))
    await kubernetes.until("microservices", "one", ready)
    await kubernetes.delete("microservices", "one")
    await kubernetes.until("microservices", "one", lambda it: it is None)
    cluster.error = Invalid("no")
    await kubernetes.apply(SHORT.replace("NAME", "two"))
    await kubernetes.until("microservices", "two", lambda it: condition(it, "Applied"))
    cluster.error = None
    await kubernetes.delete("microservices", "two")
    await kubernetes.until("microservices", "two", lambda it: it is None)
    assert cluster.deleted == []
    assert list(cluster.made) == ["id-one"]


async def test_applications_are_defined(kubernetes, cluster):
    """An application has an Applied condition and no state of its own."""
    await kubernetes.apply(APPLICATION)
    found = await kubernetes.until("applications", "shop", lambda it: condition(it, "Applied"))
    assert condition(found, "Applied")["reason"] == "Defined"
    assert cluster.asked[0][:2] == ("Application", "shop")


async def test_the_schema_refuses_what_amino_would_refuse():
    """Unknown fields, a missing class, a code that is a folder and a wrong onLoss do not get past the API server."""
    async with ApiServer() as server:
        for wrong in ('"a:B", colour: red', '"ab"', '"a:B", code: ./src', '"a:B", onLoss: cry', '"a:B", args: 5'):
            with pytest.raises(Refused):
                await server.apply(SHORT.replace("NAME", "x").replace('"a:B"', wrong))
        with pytest.raises(Refused, match="'class' is a required property"):
            await server.apply(SHORT.replace("NAME", "x").replace('class: "a:B"', "args: []"))
        await server.apply(FULL)


async def test_a_document_means_the_same_by_both_ways():
    """The guide's example, and one with everything in it: through the API server it is what ``amino apply`` reads."""
    [example] = re.findall(r"```yaml\n(apiVersion: amino.run/v1.*?)```", GUIDE.read_text(), re.DOTALL)
    async with ApiServer() as server:
        for text in (example, FULL, APPLICATION):
            [direct] = decode(text.encode(), "guide", Path())
            stored = await server.apply(text)
            metadata = stored["metadata"]
            found = manifest_from(stored["kind"], metadata["name"], metadata.get("labels", {}), stored["spec"])
            assert (found.spec, found.args, found.kwargs, found.code) == (
                direct.spec, direct.args, direct.kwargs, direct.code,
            )  # fmt: skip
