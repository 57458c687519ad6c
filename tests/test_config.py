"""Configuration: where values come from, and what is refused with which words."""

import pytest

from amino.config import ClientConfig, EtcdConfig, ServerConfig, SessionConfig, load_server_config
from amino.errors import Invalid


def load(options=None, *, file=None, environ=None):
    return load_server_config(options or {}, file=file, environ=environ or {})


def test_defaults_make_a_server():
    """Without any input there is a valid configuration on loopback."""
    config = load()
    assert config.listen == "127.0.0.1:7400"
    assert config.session.ttl_s == 3
    assert config.etcd.endpoints == ("127.0.0.1:2379",)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (
            ".yaml",
            "name: s1\nlabels: {region: eu}\nsession: {ttl_s: 5}\netcd: {endpoints: ['h:1', 'h:2']}\nlog_level: error",
        ),
        (
            ".toml",
            'name="s1"\nlog_level="error"\n[labels]\nregion="eu"\n[session]\nttl_s=5\n[etcd]\nendpoints=["h:1","h:2"]',
        ),
    ],
)
def test_options_win_over_environment_and_that_over_the_file(tmp_path, suffix, text):
    """Both kinds of file mean the same, and later sources win field by field."""
    file = tmp_path / f"server{suffix}"
    file.write_text(text)
    config = load(
        {"log_level": "debug", "capacity": None},
        file=file,
        environ={
            "AMINO_LOG_LEVEL": "warning",
            "AMINO_SESSION_TTL_S": "4",
            "AMINO_LABELS": "host=h,zone=z",
            "PATH": "x",
        },
    )
    assert (config.name, config.log_level, config.session.ttl_s) == ("s1", "debug", 4)
    assert config.etcd.endpoints == ("h:1", "h:2")
    assert config.labels == {"host": "h", "zone": "z"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"session.ttl_s": 1}, "session_ttl_s=1 is below 2"),
        ({"session.request_timeout_s": 2.0}, "raise the TTL"),
        ({"listen": "nowhere"}, "write host:port"),
        ({"listen": "h:1", "grpc_listen": "h:1"}, "listen and grpc_listen are both 'h:1'"),
        ({"health_listen": "127.0.0.1:7400"}, "give health_listen another port"),
        ({"health_listen": "x"}, "write host:port"),
        ({"dashboard.listen": "nowhere"}, "dashboard listen='nowhere'; write host:port"),
        ({"dashboard.listen": "h:1", "listen": "h:1"}, "each needs an address of its own"),
        ({"health_listen": "h:1", "dashboard.listen": "h:1"}, "health_listen and dashboard.listen are both 'h:1'"),
        ({"name": "a b"}, "name='a b'"),
        ({"capacity": -1}, "capacity=-1"),
        ({"capacity": "many"}, "capacity"),
        ({"hang_s": 1}, "hang_s=1; it must be from 2"),
        ({"dedup_horizon_s": 10}, "dedup_horizon_s=10"),
        ({"store": "/tmp/x"}, "write file:///path"),
        ({"app_dirs": ["/nonexistent/x"]}, "which is no folder"),
        ({"colour": "red"}, "colour"),
        ({"etcd.user": "u"}, "give both or neither"),
        ({"etcd.endpoints": []}, "at least one"),
        ({"tls.ca": "/nonexistent/ca.pem"}, "cannot be read"),
        ({"labels": {"a b": "c"}}, "label 'a b'"),
        ({"limits.frame_bytes_max": 10}, "frame_bytes_max=10"),
        ({"limits.in_flight_per_object_max": 100000}, "lower the former"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(options, words):
    """Each refusal names the field, its value and the way out."""
    with pytest.raises(Invalid, match=r"^configuration: ") as caught:
        load(options)
    assert words in str(caught.value)


def test_free_ports_are_never_the_same():
    """Port 0 stands for whichever is free, so it may be asked for everywhere."""
    anywhere = "127.0.0.1:0"
    asked = load({"listen": anywhere, "grpc_listen": anywhere, "health_listen": anywhere, "dashboard.listen": anywhere})
    assert asked.listen == asked.grpc_listen == asked.health_listen == asked.dashboard.listen


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", "a: [", "no valid YAML"),
        ("a.yaml", "- a", "holds a list"),
        ("a.toml", "a = ", "no valid TOML"),
        ("a.ini", "", "unknown kind"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, words):
    """A broken file is refused with its path."""
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(Invalid, match=words):
        load(file=file)
    with pytest.raises(Invalid, match="cannot be read"):
        load(file=tmp_path / "missing.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    """An empty YAML file is a configuration without fields."""
    file = tmp_path / "a.yaml"
    file.write_text("")
    assert load(file=file) == load()


def test_passwords_stay_out_of_what_is_shown():
    """The text form of the configuration, which ends up in logs, has no password."""
    config = ServerConfig(etcd=EtcdConfig(user="u", password="secret"))
    assert "secret" not in repr(config)


def test_derived_session_times_keep_the_relation():
    """Every allowed TTL leaves time for a lost and a late renewal."""
    for ttl_s in (2, 3, 10, 60):
        session = SessionConfig(ttl_s=ttl_s)
        assert session.renew_every_s + 2 * session.request_timeout_s <= ttl_s - session.margin_s + 1e-9


def test_a_client_takes_several_addresses():
    """Addresses are separated by commas and each is checked."""
    assert ClientConfig(address="a:1, b:2").addresses == ("a:1", "b:2")
    with pytest.raises(Invalid, match="address='b'"):
        ClientConfig(address="a:1,b")


def test_the_dashboards_token_comes_from_the_environment_and_is_not_shown():
    """The token is read beside the address, and printing a configuration does not tell it."""
    environ = {"AMINO_DASHBOARD": "127.0.0.1:7480", "AMINO_DASHBOARD_TOKEN": "something-secret-enough"}
    config = load_server_config({}, environ=environ)
    assert (config.dashboard.listen, config.dashboard.token) == ("127.0.0.1:7480", "something-secret-enough")
    assert "something-secret" not in repr(config)
