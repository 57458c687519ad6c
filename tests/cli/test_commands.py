"""Every command against a real cluster: results, forms, exit codes and the words of errors."""

import json
from pathlib import Path

import pytest
import yaml

from amino.cli import application
from amino.testing import LocalCluster
from tests.waiting import until

pytestmark = pytest.mark.real

APP = Path(__file__).parent / "app"
PATIENCE_S = 60.0
MANIFEST = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {{name: {name}, labels: {{kind: test}}}}
spec:
  class: clishop.counter:Counter
  args: [100]
  kwargs: {{step: 2}}
  dms: [AtLeastOnceRPC, {{PeriodicCheckpoint: {{every: 1}}}}, SerializableRPC]
"""


@pytest.fixture(scope="module")
def local(node_etcd):
    with LocalCluster(2, etcd_endpoints=node_etcd.endpoints, app_dirs=[APP], cluster="cli", session_ttl_s=2) as running:
        yield running


@pytest.fixture
def run(local, capsys):
    """Run a command; returns (code, output, messages)."""

    def command(*arguments, code=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            application.run([*arguments, "-a", local.addresses[0], "--cluster", "cli"])
        found = capsys.readouterr()
        assert ended.value.code == code, (ended.value.code, found)
        assert "Traceback" not in found.err
        return found.out if code == 0 else found.err

    return command


@pytest.fixture
def hits(run, tmp_path, request):
    """A counter of the test's own, deleted after."""
    name = f"hits-{abs(hash(request.node.name)) % 10**9}"
    file = tmp_path / "m.yaml"
    file.write_text(MANIFEST.format(name=name))
    run("apply", "-f", str(file))
    yield name
    run("delete", name, "--ignore-missing")


def test_servers_are_listed_in_every_form(run, local):
    """Table, wide, JSON and YAML tell the same servers; filters choose among them."""
    table = run("get", "servers")
    assert table.splitlines()[0].split() == ["NAME", "STATE", "ADDRESS", "REGION", "REPLICAS", "SLOTS", "AGE"]
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["s1", "s2"]
    assert "host=s1" in run("get", "servers", "-o", "wide")
    rows = json.loads(run("get", "servers", "-o", "json"))
    assert rows == yaml.safe_load(run("get", "servers", "-o", "yaml"))
    assert rows[0]["record"]["address"] == local.server("s1").address
    assert [row["record"]["name"] for row in json.loads(run("get", "servers", "-l", "host=s2", "-o", "json"))] == ["s2"]


def test_apply_is_idempotent_and_changes_what_runs(run, hits, tmp_path):
    """The same manifest changes nothing; another chain converts the running object, after saying so if asked to."""
    file = tmp_path / "again.yaml"
    file.write_text(MANIFEST.format(name=hits))
    [done] = json.loads(run("apply", "-f", str(file), "-o", "json"))
    assert (done["name"], done["action"]) == (hits, "unchanged")
    values = [int(run("call", hits, "add", "1")) for _ in range(2)]
    file.write_text(MANIFEST.format(name=hits).replace(", SerializableRPC", ""))
    [told] = json.loads(run("apply", "-f", str(file), "--dry-run", "-o", "json"))
    assert (told["action"], told["changes"]) == (
        "would be changed",
        [
            "dms: [AtLeastOnceRPC, PeriodicCheckpoint(every=1), SerializableRPC] -> [AtLeastOnceRPC, PeriodicCheckpoint(every=1)]"
        ],
    )
    [done] = json.loads(run("apply", "-f", str(file), "-o", "json"))
    assert (done["action"], done["changes"]) == ("changed", told["changes"])
    assert "unchanged" in run("apply", "-f", str(file), "-o", "json")
    assert int(run("call", hits, "add", "1")) == 2 * values[1] - values[0]


def test_apply_says_what_cannot_change(run, hits, tmp_path):
    """Class and unknown managers are refused with the reason, and nothing happens."""
    file = tmp_path / "again.yaml"
    file.write_text(MANIFEST.format(name=hits).replace(":Counter", ":Other"))
    assert "class of a running microservice cannot change" in run("apply", "-f", str(file), code=1)
    file.write_text(MANIFEST.format(name=hits).replace("SerializableRPC", "NoSuchManager"))
    assert "NoSuchManager" in run("apply", "-f", str(file), code=1)
    file.write_text(MANIFEST.format(name=hits))
    [done] = json.loads(run("apply", "-f", str(file), "-o", "json"))
    assert done["action"] == "unchanged"


def test_methods_are_called_with_json_and_text(run, hits):
    """Arguments, keywords, async methods and forms of results."""
    assert run("call", hits, "add", "5") == "110\n"
    assert run("call", hits, "add", "-5") == "100\n"
    assert run("call", hits, "add", "-k", "n=1") == "102\n"
    assert json.loads(run("call", hits, "later", "-o", "json")) == {"value": 102, "tags": ["a", "b"]}
    [row] = json.loads(run("get", "microservices", "--label", "kind=test", "-o", "json"))
    assert run("call", row["id"], "get") == "102\n"


def test_failures_of_calls_are_told_apart(run, hits):
    """A method that raises, a method and a microservice that do not exist."""
    assert "the method raised ValueError: for a reason" in run("call", hits, "fail", "for a reason", code=1)
    assert "no public method 'nothing'" in run("call", hits, "nothing", code=3)
    message = run("call", "nobody", "get", code=3)
    assert "nobody" in message


def test_what_is_where_can_be_listed_and_described(run, hits):
    """Microservices, replicas, checkpoints, slots and events, and everything about one."""
    run("call", hits, "add")
    [row] = json.loads(run("get", "microservices", "--class", "clishop.counter:Counter", "-o", "json"))
    assert (row["name"], row["state"]) == (hits, "active")
    [replica] = json.loads(run("get", "replicas", "-o", "json"))
    assert (replica["server"],) == tuple(row["servers"])
    checkpoints = json.loads(run("get", "checkpoints", "-o", "json"))
    assert {each["microservice"] for each in checkpoints} == {row["id"]}
    assert hits in run("get", "checkpoints")
    slots = json.loads(run("get", "slots", "-o", "json"))
    assert {each["leader"] for each in slots} == {"s1", "s2"}
    assert [each["slot"] for each in slots] == list(range(64))
    described = run("describe", hits)
    assert "fewest replicas" in described
    assert "PeriodicCheckpoint every=1" in described
    assert json.loads(run("describe", hits, "-o", "json"))["id"] == row["id"]
    assert hits in run("describe", row["servers"][0])
    created = json.loads(run("get", "events", "--kind", "created", "--microservice", hits, "-o", "json"))
    assert [each["microservice"] for each in created] == [row["id"]]


def test_a_microservice_is_moved_with_its_state(run, hits):
    """Moving goes to the named server, and its state goes along."""
    [row] = json.loads(run("get", "microservices", "--label", "kind=test", "-o", "json"))
    other = {"s1": "s2", "s2": "s1"}[row["servers"][0]]
    run("call", hits, "add")
    run("move", hits, other)
    assert run("call", hits, "get") == "102\n"
    groups = json.loads(run("locate", hits, "-o", "json"))
    assert [replica["server"] for replica in groups["/"]["replicas"]] == [other]
    assert "no-such-server" in run("move", hits, "no-such-server", code=3)


def test_servers_are_cordoned_drained_and_opened(run, hits):
    """A drain moves everything off; the server stays cordoned until it is opened."""
    [row] = json.loads(run("get", "microservices", "--label", "kind=test", "-o", "json"))
    server = row["servers"][0]
    run("cordon", server, "--why", "new disk")
    assert "new disk" in run("describe", server)
    run("drain", server)
    [row] = json.loads(run("get", "microservices", "--label", "kind=test", "-o", "json"))
    assert row["servers"] != [server]
    assert [
        each["record"]["name"] for each in json.loads(run("get", "servers", "--state", "cordoned", "-o", "json"))
    ] == [server]
    run("uncordon", server)
    assert run("get", "servers", "--state", "cordoned", "-o", "json") == "[]\n"
    assert "nowhere" in run("cordon", "nowhere", code=3)


@pytest.mark.keeps("the server's processes are started again, and end with the module")
def test_a_drain_until_restart_ends_with_the_restart(run, hits, local):
    """What was emptied for a restart takes replicas again once it has started, without an operator's word."""
    second = local.server("s2")
    run("drain", "s2", "--until-restart")
    assert "shutting down" in run("describe", "s2")
    assert "give one of the two" in run("drain", "s2", "--until-restart", "--why", "new disk", code=1)
    second.kill()
    second.wait_ended()
    second.start()

    def is_open():
        there = [each["record"]["name"] for each in json.loads(run("get", "servers", "-o", "json"))]
        return "s2" in there and run("get", "servers", "--state", "cordoned", "-o", "json") == "[]\n"

    until(is_open, PATIENCE_S)
    run("move", hits, "s2")


def test_pause_and_resume(run):
    """The cluster says that it is paused, and goes on after."""
    run("pause")
    run("resume")


def test_restore_and_release_say_what_does_not_fit(run, hits):
    """Neither does anything to a microservice that is well, and both are told for what does not exist."""
    run("restore", "nobody", code=3)
    run("release", "nobody", code=3)


def test_deleting_what_is_gone(run, hits):
    """Deleting twice is an error, unless asked not to be."""
    run("delete", hits)
    assert hits in run("delete", hits, code=3)
    run("delete", hits, "--ignore-missing")


def test_applications_are_pushed_defined_and_started(run, tmp_path):
    """Code that no server has is pushed from a folder; the entry is created once."""
    package = tmp_path / "src" / "pushedshop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("class Entry:\n    def hello(self, who):\n        return f'hello {who}'\n")
    file = tmp_path / "app.yaml"
    file.write_text(
        "apiVersion: amino.run/v1\nkind: Application\nmetadata: {name: pushed}\n"
        "spec: {code: src, entry: {class: 'pushedshop:Entry'}}\n"
    )
    sha256 = run("app", "push", str(tmp_path / "src")).strip()
    assert len(sha256) == 64
    run("apply", "-f", str(file))
    first = run("app", "start", "pushed").strip()
    assert run("app", "start", "pushed").strip() == first
    assert run("call", first, "hello", "world") == "hello world\n"
    run("delete", first)
    assert "nosuchapp" in run("app", "start", "nosuchapp", code=3)


def test_wrong_manifests_are_refused_before_anything_is_done(run, hits, tmp_path):
    """All documents are checked first; errors name file, field and value."""
    file = tmp_path / "bad.yaml"
    file.write_text(MANIFEST.format(name="never-made") + "---\n" + MANIFEST.format(name="bad").replace("args", "arg"))
    assert "unknown field `arg`" in run("apply", "-f", str(file), code=1)
    run("describe", "never-made", code=3)
    file.write_text(MANIFEST.format(name="unknown-class").replace("counter:Counter", "counter:Nothing"))
    message = run("apply", "-f", str(file), code=1)
    assert "document 1 (unknown-class)" in message
    assert "Nothing" in message
    file.write_text(MANIFEST.format(name="no-code").replace("  args", "  code: no-folder\n  args"))
    assert "neither the sha256 of a bundle nor a folder" in run("apply", "-f", str(file), code=1)


def test_the_wrong_cluster_is_named(local, capsys):
    """Names of clusters are compared at the first contact, and both are named."""
    with pytest.raises(SystemExit) as ended:
        application.run(["get", "servers", "-a", local.addresses[0], "--cluster", "other"])
    assert ended.value.code in {1, 4}
    assert "other" in capsys.readouterr().err


def test_nobody_there_is_code_4(capsys):
    """A cluster that cannot be reached is unavailable, with the address that was tried."""
    with pytest.raises(SystemExit) as ended:
        application.run(["get", "servers", "-a", "127.0.0.1:1", "--timeout", "0.5"])
    assert ended.value.code == 4
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_shards_and_replicas_are_scaled(run, hits, tmp_path):
    """Shards come and go; what has none says so, and exactly one number is asked for."""
    assert "has no shards" in run("scale", hits, "--shards", "2", code=1)
    assert "give one of the two" in run("scale", hits, code=1)
    file = tmp_path / "shelf.yaml"
    managers = "[{DHT: {shards: 3}}, {ConsensusRSM: {replicas: 2, min_in_sync: 1}}]"
    file.write_text(MANIFEST.format(name="shelf").replace(MANIFEST.rpartition("dms: ")[2].strip().format(), managers))
    run("apply", "-f", str(file))
    try:
        run("scale", "shelf", "--shards", "2")
        rows = [row for row in json.loads(run("get", "replicas", "-o", "json")) if row["name"] == "shelf"]
        assert {row["path"] for row in rows} == {"/0", "/1"}
        assert {row["role"] for row in rows} >= {"primary"}
        assert "shards" in run("describe", "shelf")
    finally:
        run("delete", "shelf")
