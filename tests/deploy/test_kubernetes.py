"""The manifests of Kubernetes: valid against its own schemas, and consistent with what Amino does.

What a real API server would add (admission, scheduling, certificates of cert-manager, a mesh) is not tested; docs/deploy.md says so.
"""

import shutil
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from amino.config import environment_names, load_server_config
from amino.node import health
from amino.node.embedded_etcd import MEMBER_OPTIONS
from amino.node.supervisor_machine import Rules
from amino.operator.config import from_environment

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
VERSIONS = ("1.31", "1.37")
OF_OTHERS = {"cert-manager.io/v1", "security.istio.io/v1"}  # whose schemas no package carries
PLAIN = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = sorted(path.parent for path in FOLDER.rglob("kustomization.yaml"))
OVERLAYS = sorted((FOLDER / "overlays").iterdir())


def documents(path):
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


@cache
def rendered(folder):
    """Return what ``kubectl apply -k`` would send."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def check(document, version):
    if document["apiVersion"] not in OF_OTHERS:
        kubernetes_validate.validate(document, version, strict=True)


def one(found, kind, name):
    [document] = [each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return document


def of_base(file, kind, name="amino"):
    return one(documents(FOLDER / "base" / file), kind, name)


@pytest.fixture
def pod():
    return of_base("servers.yaml", "StatefulSet")["spec"]["template"]["spec"]


@pytest.fixture
def server(pod):
    return pod["containers"][0]


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_manifest_fits_the_schemas(path):
    """Strictly: a field that Kubernetes does not know is an error; in the oldest and the newest version we name."""
    for document in documents(path):
        for version in VERSIONS:
            check(document, version)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_kustomization_names_files_that_exist(folder):
    """Resources and components are there, and every file of a folder is named."""
    found = yaml.safe_load((folder / "kustomization.yaml").read_text())
    named = {*found.get("resources", ()), *found.get("components", ())}
    assert all((folder / each).exists() for each in named)
    assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} <= named


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="rendering needs kubectl")
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_overlays_render_to_valid_manifests(folder):
    """What would be applied is valid, in the namespace it names, and every reference leads to something or is a secret."""
    found = rendered(folder)
    for document in found:
        for version in VERSIONS:
            check(document, version)
    namespaced = [each for each in found if each["kind"] not in {"Namespace", "CustomResourceDefinition"}]
    namespaces = {each["metadata"].get("namespace") for each in namespaced if not each["kind"].startswith("Cluster")}
    assert namespaces == {"amino"}
    subjects = [each for document in found for each in document.get("subjects", ())]
    assert {each["namespace"] for each in subjects} == {"amino"}
    accounts = {each["metadata"]["name"] for each in found if each["kind"] == "ServiceAccount"}
    assert {each["name"] for each in subjects} == accounts
    cluster = one(found, "ConfigMap", "amino-cluster")["data"]
    assert cluster["AMINO_STORE"].partition("://")[0] in {"file", "s3"}
    assert set(cluster) <= set(environment_names())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="rendering needs kubectl")
@pytest.mark.parametrize("component", ["autoscaling", "istio", "tls-per-pod"])
def test_components_fit_the_base(component, tmp_path):
    """Each optional component can be added to an overlay, and the result is valid."""
    overlay = FOLDER / "overlays" / "existing-etcd"
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    file = copy / "overlays" / "existing-etcd" / "kustomization.yaml"
    file.write_text(f"{file.read_text()}\ncomponents: [../../components/{component}]\n")
    found = rendered(file.parent)
    for document in found:
        check(document, VERSIONS[-1])
    assert found != rendered(overlay)
    pod = one(found, "StatefulSet", "amino")["spec"]["template"]["spec"]
    [tls] = [each for each in pod["volumes"] if each["name"] == "tls"]
    assert ("csi" in tls) == (component == "tls-per-pod")
    assert ("secret" in tls) == (component != "tls-per-pod")


def test_probes_ask_three_different_questions(server):
    """Startup, liveness and readiness ask what their names say, on the port that answers."""
    asked = {kind: server[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: each["path"] for kind, each in asked.items()} == {
        "startup": health.STARTUP,
        "liveness": health.LIVE,
        "readiness": health.READY,
    }
    [port] = [each["containerPort"] for each in server["ports"] if each["name"] == "health"]
    assert all(each["port"] == "health" for each in asked.values())
    assert variables(server)["AMINO_HEALTH_LISTEN"] == f"0.0.0.0:{port}"


def variables(container):
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_a_drain_has_the_time_it_needs(pod, server):
    """preStop, SIGTERM's own drain and the stop fit into the grace period, one after the other."""
    drain_s = float(of_base("cluster.yaml", "ConfigMap", "amino-cluster")["data"]["AMINO_DRAIN_TIMEOUT_S"])
    [*_, script] = server["lifecycle"]["preStop"]["exec"]["command"]
    words = script.split()
    assert "--until-restart" in words  # or the server stays cordoned when it comes back
    wait_s, timeout_s = (float(words[words.index(option) + 1]) for option in ("--wait", "--timeout"))
    assert wait_s < timeout_s
    assert timeout_s + drain_s + Rules(ttl_s=3).stop_timeout_s < pod["terminationGracePeriodSeconds"]


def test_the_server_takes_what_the_manifest_gives(pod, server, tmp_path):
    """Every AMINO_ variable is one that the server knows, and together they are a valid configuration."""
    cluster = of_base("cluster.yaml", "ConfigMap", "amino-cluster")["data"]
    given = {key: value for key, value in {**cluster, **variables(server)}.items() if key.startswith("AMINO_")}
    assert set(given) <= set(environment_names())
    for key, value in given.items():
        mounted = [each["mountPath"] for each in server["volumeMounts"]]
        if value.startswith("/"):
            assert any(value.startswith(f"{path}/") for path in mounted), key
            given[key] = str(tmp_path / value.rpartition("/")[2])
            Path(given[key]).touch()
        given[key] = given[key].replace("$(POD_NAME)", "amino-0").replace("$(POD_NAMESPACE)", "amino")
    node = tmp_path / "node.yaml"
    node.write_text('{"labels": {"host": "node-1", "zone": "a"}}')
    config = load_server_config({}, file=node, environ=given)
    peers = of_base("services.yaml", "Service", "amino-peers")
    assert config.name == config.advertise == f"amino-0.{peers['metadata']['name']}.amino.svc"
    assert config.labels == {"host": "node-1", "zone": "a"}
    assert peers["spec"]["publishNotReadyAddresses"] is True
    assert of_base("servers.yaml", "StatefulSet")["spec"]["serviceName"] == peers["metadata"]["name"]
    assert pod["enableServiceLinks"] is False  # a service's own AMINO_... variables would mean something else


def test_ports_say_what_is_spoken(server):
    """Every port of a service has an appProtocol and leads to a port of the container."""
    names = {each["name"] for each in server["ports"]}
    for service in documents(FOLDER / "base" / "services.yaml"):
        assert all(each["appProtocol"] and each["targetPort"] in names for each in service["spec"]["ports"])


def test_all_containers_are_confined():
    """Not root, no privileges, read-only root, bounded resources: what the restricted Pod Security standard asks, and more."""
    found = [each for path in PLAIN for each in documents(path) if each["kind"] in {"StatefulSet", "Deployment"}]
    assert len(found) == 3
    for workload in found:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_members_of_etcd_run_as_they_should():
    """With the options that every member of ours has."""
    of_etcd = one(documents(FOLDER / "components" / "etcd" / "etcd.yaml"), "StatefulSet", "amino-etcd")
    [member] = of_etcd["spec"]["template"]["spec"]["containers"]
    assert set(MEMBER_OPTIONS) <= {*member.get("command", ()), *member.get("args", ())}


def test_selectors_meet_the_pods():
    """Services, budgets, policies and spreads select the pods they are meant for."""
    labels = of_base("servers.yaml", "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    selectors = [of_base("disruption.yaml", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]]
    selectors.append(of_base("network.yaml", "NetworkPolicy", "amino-server")["spec"]["podSelector"]["matchLabels"])
    selectors += [each["spec"]["selector"] for each in documents(FOLDER / "base" / "services.yaml")]
    spec = of_base("servers.yaml", "StatefulSet")["spec"]["template"]["spec"]
    selectors += [each["labelSelector"]["matchLabels"] for each in spec["topologySpreadConstraints"]]
    assert all(each == labels for each in selectors)
    assert {each["topologyKey"] for each in spec["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }


def test_the_operator_takes_what_its_manifest_gives(tmp_path):
    """Its variables are a valid configuration; it may scale the StatefulSet that there is."""
    [deployment] = [each for each in documents(FOLDER / "operator" / "operator.yaml") if each["kind"] == "Deployment"]
    given = variables(deployment["spec"]["template"]["spec"]["containers"][0])
    for key in [each for each in given if each.startswith("AMINO_TLS_")]:
        given[key] = str(tmp_path / key)
        Path(given[key]).touch()
    config = from_environment({**given, "POD_NAMESPACE": "amino", "AMINO_CLUSTER": "amino"})
    assert (config.client.addresses, config.namespaces, config.home) == (("amino:7400",), ("amino",), "amino")
    role = one(documents(FOLDER / "operator" / "operator.yaml"), "Role", "amino-operator")
    [scale] = [each for each in role["rules"] if "statefulsets/scale" in each["resources"]]
    assert scale["resourceNames"] == [of_base("servers.yaml", "StatefulSet")["metadata"]["name"]]
