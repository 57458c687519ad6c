"""The compose file: consistent with itself, with what Amino takes and with the metrics it has. ``test_compose_cluster`` runs it."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import yaml

from amino.config import environment_names, load_server_config
from amino.dashboard.access import Access
from amino.node.embedded_etcd import MEMBER_OPTIONS
from amino.node.health import Condition, HealthPort
from amino.node.supervisor_machine import Rules
from tests.telemetry.exported import series

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
SERVERS = [SERVICES[name] for name in ("s1", "s2", "s3")]


def interpolated(text, **environ):
    """Return ``text`` with compose's variables replaced: ``${NAME:-default}`` and ``${NAME:+replacement}``."""

    def value(found):
        name, how, word = found.groups()
        return (word if environ.get(name) else "") if how == "+" else environ.get(name) or word

    return re.sub(r"\$\{(\w+):([-+])([^}]*)\}", value, text)


def test_the_cluster_is_whole():
    """Three members of etcd, three servers, Jaeger, Prometheus, Grafana and the collector between them."""
    assert set(SERVICES) == {
        "etcd1", "etcd2", "etcd3", "s1", "s2", "s3", "collector", "jaeger", "prometheus", "grafana"
    }  # fmt: skip


def test_what_is_named_exists():
    """Networks, volumes, dependencies and mounted files."""
    for service in SERVICES.values():
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        for volume in service.get("volumes", ()):
            source = interpolated(volume).partition(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume


def test_nothing_is_open_beyond_this_machine():
    """Published ports are on loopback: within, everything is plain text."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_ports_on_the_host_can_be_chosen():
    """Each has a variable of its own, so that two clusters fit on a machine; without it, the host's port is the container's."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    chosen = [re.fullmatch(r"127\.0\.0\.1:\$\{(\w+_PORT):-(\d+)\}:(\d+)", port).groups() for port in ports]
    assert len({variable for variable, _, _ in chosen}) == len(ports)
    assert all(default == inside for _, default, inside in chosen)


def test_servers_need_nothing_but_etcd():
    """Where collector, Jaeger and the others cannot be had or are not wanted, servers start without them."""
    for server in SERVERS:
        assert set(server["depends_on"]) == {"etcd1", "etcd2", "etcd3"}
        disabled = server["environment"]["OTEL_SDK_DISABLED"]
        assert (interpolated(disabled), interpolated(disabled, OTEL_SDK_DISABLED="true")) == ("false", "true")


def test_the_folder_of_the_examples_has_the_packages_that_they_import():
    """Classes of the examples are found under what is mounted as the folder of code: it is what would be on sys.path."""
    [app] = [volume for volume in map(interpolated, SERVERS[0]["volumes"]) if volume.endswith(":/srv/app:ro")]
    folder = (FOLDER / app.partition(":")[0]).resolve()
    manifests = [manifest for file in folder.glob("*/*.yaml") for manifest in yaml.safe_load_all(file.read_text())]
    modules = [re.search(r"class: ([\w.]+):", yaml.safe_dump(manifest))[1] for manifest in manifests]
    assert modules
    for module in (*modules, "minnietwitter.twitter", "kvstore.store"):
        assert folder.joinpath(*module.split(".")).with_suffix(".py").exists(), module


def test_clients_in_the_containers_have_the_classes_too():
    """``amino call`` and Python in a server's container import from where the server does: objects come back as what they are."""
    assert all(server["environment"]["PYTHONPATH"] == server["environment"]["AMINO_APP_DIRS"] for server in SERVERS)


def test_the_store_can_be_written_by_the_user_of_the_image():
    """The volume is where the image has a folder of that user: a new volume takes over whose it is."""
    dockerfile = (FOLDER.parent / "docker" / "Dockerfile").read_text()
    user = re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE)[-1]
    owned = re.search(rf"install -d -o {user} ([^&\\]*)", dockerfile)[1].split()
    for server in SERVERS:
        [store] = [volume.partition(":")[2] for volume in server["volumes"] if volume.startswith("store:")]
        assert store in owned
        assert server["environment"]["AMINO_STORE"] == f"file://{store}"


def test_servers_take_what_they_are_given(monkeypatch):
    """Every variable is known and each server's configuration is valid; they differ in name, host and zone only."""
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    configs = []
    for server in SERVERS:
        given = {key: interpolated(value) for key, value in server["environment"].items() if key.startswith("AMINO_")}
        assert set(given) <= set(environment_names())
        configs.append(load_server_config({}, environ=given))
    assert {config.etcd.endpoints for config in configs} == {("etcd1:2379", "etcd2:2379", "etcd3:2379")}
    assert [config.advertise for config in configs] == [config.name for config in configs] == ["s1", "s2", "s3"]
    assert len({config.labels["zone"] for config in configs}) == 3
    needed_s = configs[0].drain_timeout_s + Rules(ttl_s=3).stop_timeout_s
    assert needed_s < float(SERVERS[0]["stop_grace_period"].rstrip("s"))


def test_the_first_server_shows_the_cluster_to_who_has_chosen_a_token():
    """With a token there is a page behind the published port; without one there is none."""
    environment = SERVERS[0]["environment"]
    listen, token = environment["AMINO_DASHBOARD"], environment["AMINO_DASHBOARD_TOKEN"]
    chosen = {"DASHBOARD_TOKEN": "chosen-by-somebody"}
    assert (interpolated(listen), interpolated(token)) == ("", "")
    access = Access.of(interpolated(listen, **chosen), interpolated(token, **chosen))
    assert access == Access("chosen-by-somebody", local=False)
    port = interpolated(listen, **chosen).rpartition(":")[2]
    assert f"127.0.0.1:{port}:{port}" in map(interpolated, SERVERS[0]["ports"])


def test_members_of_etcd_know_each_other():
    """Each member's own address is one of the initial cluster's."""
    for name in ("etcd1", "etcd2", "etcd3"):
        given = SERVICES[name]["environment"]
        assert f"{name}={given['ETCD_INITIAL_ADVERTISE_PEER_URLS']}" in given["ETCD_INITIAL_CLUSTER"].split(",")
        assert given["ETCD_NAME"] == name


def test_members_of_etcd_run_as_they_should():
    """With the options that every member of ours has."""
    for name in ("etcd1", "etcd2", "etcd3"):
        given = SERVICES[name]["environment"]
        for option, _, value in (each.removeprefix("--").partition("=") for each in MEMBER_OPTIONS):
            assert given["ETCD_" + option.replace("-", "_").upper()] == value


@pytest.mark.parametrize(("serves", "code"), [(True, 0), (False, 1)])
async def test_the_health_check_of_a_server_works(serves, code):
    """The very command of the file, against a health port: healthy while the server serves, unhealthy otherwise."""
    port = await HealthPort.open("127.0.0.1:0", lambda: Condition("serving", True, serves, 1.0))
    try:
        [form, *command] = SERVERS[0]["healthcheck"]["test"]
        assert form == "CMD"
        command[-1] = command[-1].replace("/7402", f"/{port.address.rpartition(':')[2]}")
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == code
    finally:
        await port.aclose()


def test_the_dashboard_shows_metrics_that_exist():
    """Each metric in the dashboard is one that Prometheus has of Amino, each label one of the metrics in its query."""
    text = (FOLDER / "grafana" / "dashboards" / "amino.json").read_text()
    queries = [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    known = series()
    asked = [set(re.findall(r"\bamino_\w+", query)) for query in queries]
    assert any(asked)
    for used in asked:
        labels = {label for metric in used & known.keys() for label in known[metric]}
        assert used <= known.keys() | labels


def test_what_is_scraped_is_what_listens():
    """Prometheus asks the collector where the collector answers, and etcd at its port of metrics; its alerts are where it looks."""
    prometheus = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    targets = {each["job_name"]: each["static_configs"][0]["targets"] for each in prometheus["scrape_configs"]}
    collector = yaml.safe_load((FOLDER / "collector.yaml").read_text())
    assert targets["amino"] == [f"collector:{collector['exporters']['prometheus']['endpoint'].rpartition(':')[2]}"]
    [rules] = prometheus["rule_files"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["prometheus"]["volumes"])
    assert (FOLDER / mounts[str(Path(rules).parent)] / Path(rules).name).exists()
    metrics = SERVICES["etcd1"]["environment"]["ETCD_LISTEN_METRICS_URLS"].rpartition(":")[2]
    assert targets["etcd"] == [f"etcd{number}:{metrics}" for number in (1, 2, 3)]
    for pipeline in collector["service"]["pipelines"].values():
        assert set(pipeline["exporters"]) <= set(collector["exporters"])
        assert set(pipeline["processors"]) <= set(collector["processors"])
