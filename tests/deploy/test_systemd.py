"""The unit of systemd: what it promises fits what the supervisor does. A systemd to run it under is not there in tests."""

import configparser
from pathlib import Path

import pytest
import yaml

from amino.config import ServerConfig, convert, load_server_config
from amino.node.supervisor_machine import Rules

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"


@pytest.fixture
def unit():
    """The unit's sections; of repeated keys the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read(FOLDER / "amino-server@.service")
    return parser


def server_yaml(tmp_path):
    tree = yaml.safe_load((FOLDER / "server.yaml").read_text())
    for files in (tree["tls"], tree["etcd"]["tls"]):
        for key, path in files.items():
            assert path.startswith("/etc/amino/tls/")
            files[key] = str(tmp_path / Path(path).name)
            Path(files[key]).touch()
    return tree


def test_a_stop_has_the_time_it_needs(unit, tmp_path):
    """SIGTERM goes to the supervisor alone, which may drain and stop before anything is killed."""
    config = convert(server_yaml(tmp_path), ServerConfig, "server.yaml")
    service = unit["Service"]
    assert service["KillMode"] == "mixed"
    assert float(service["TimeoutStopSec"]) > config.drain_timeout_s + Rules(ttl_s=3).stop_timeout_s


def test_it_is_started_again_when_it_should_be(unit):
    """Failures restart it, with a bound; a kernel process killed for memory does not take the supervisor along."""
    service = unit["Service"]
    assert (service["Restart"], service["OOMPolicy"]) == ("on-failure", "continue")
    assert int(unit["Unit"]["StartLimitBurst"]) > 0
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert float(service["WatchdogSec"]) > 3  # a beat each third of it


def test_it_is_confined_and_bounded(unit):
    """No privileges, nothing of the system writable, resources limited."""
    service = unit["Service"]
    wanted = {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
        "CapabilityBoundingSet": "", "RestrictNamespaces": "yes", "User": "amino",
    }  # fmt: skip
    assert {key: service[key] for key in wanted} == wanted
    assert {"MemoryMax", "TasksMax", "LimitNOFILE", "CPUWeight"} <= set(service)


def test_the_example_files_are_a_valid_configuration(tmp_path):
    """The common file and one server's environment together configure a server with TLS on all sides."""
    file = tmp_path / "server.yaml"
    file.write_text(yaml.safe_dump(server_yaml(tmp_path)))
    lines = [each for each in (FOLDER / "s1.env").read_text().splitlines() if each and not each.startswith("#")]
    environ = dict(line.split("=", 1) for line in lines)
    config = load_server_config({"name": "s1"}, file=file, environ=environ)
    assert config.tls is not None
    assert config.etcd.tls is not None
    assert (config.etcd.user, config.advertise) == ("amino", "host-1.example.internal")
