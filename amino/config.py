"""Configuration of a process: typed, checked, from defaults, a file, the environment and options, in that order.

Owns the fields, their ranges and the relations between them. Leaves acting on them to ``node`` and ``cli``.
Invariants: a configuration that exists is valid; unknown fields are refused, never ignored.
Failure behaviour: ``Invalid`` names the field, the value, the rule and the remedy.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from amino import limits
from amino.errors import Invalid
from amino.ids import valid_name

C = TypeVar("C", bound=msgspec.Struct)
SESSION_TTL_S_MIN = 2
HANG_S_MIN = 2.0
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?\Z")


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of PEM files: the authority both sides trust, our certificate and its key."""

    ca: str
    cert: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise Invalid(f"tls cert={self.cert!r} and key={self.key!r}; give both or neither")
        for field in ("ca", "cert", "key"):
            path = getattr(self, field)
            if path and not os.access(path, os.R_OK):
                raise Invalid(f"tls {field}={path!r} cannot be read; name a readable PEM file")


class EtcdConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach etcd.

    Args:
        endpoints: ``host:port`` of its members.
        user: with ``password``, where etcd asks for them.
        tls: files for TLS towards etcd; without, the connection is plain.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    user: str = ""
    password: str = ""
    tls: TlsFiles | None = None

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise Invalid("etcd endpoints are empty; give at least one host:port")
        for endpoint in self.endpoints:
            _check_address("etcd endpoint", endpoint)
        if bool(self.user) != bool(self.password):
            raise Invalid(
                f"etcd user={self.user!r} without {'password' if self.user else 'user'}; give both or neither"
            )

    def __repr__(self) -> str:
        return f"EtcdConfig(endpoints={self.endpoints}, user={self.user!r}, tls={self.tls})"


class SessionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times of a server's session, in seconds; those given as 0 are derived from ``ttl_s`` and never read as 0.

    Validity is renewed every ``renew_every_s``; one renewal may take ``request_timeout_s``; ``margin_s`` before the
    lease ends the server is not valid any more. The relation checked here leaves time for one renewal that is lost
    and a second one that answers late.
    """

    ttl_s: int = 3
    renew_every_s: float = 0.0
    request_timeout_s: float = 0.0
    margin_s: float = 0.0

    def __post_init__(self) -> None:
        if self.ttl_s < SESSION_TTL_S_MIN:
            raise Invalid(
                f"session_ttl_s={self.ttl_s} is below {SESSION_TTL_S_MIN}, etcd's own minimum; set it to "
                f"{SESSION_TTL_S_MIN} or more"
            )
        for field in ("renew_every_s", "request_timeout_s", "margin_s"):
            if getattr(self, field) < 0:
                raise Invalid(f"session {field}={getattr(self, field)} is negative; leave it at 0 to derive it")
        for field, share in (("renew_every_s", 6), ("request_timeout_s", 3), ("margin_s", 10)):
            msgspec.structs.force_setattr(self, field, getattr(self, field) or self.ttl_s / share)
        needed = self.renew_every_s + 2 * self.request_timeout_s
        if needed > self.ttl_s - self.margin_s + 1e-9:
            raise Invalid(
                f"session renew_every_s={self.renew_every_s:g} + 2 x request_timeout_s={self.request_timeout_s:g} is "
                f"{needed:g}, more than ttl_s={self.ttl_s} - margin_s={self.margin_s:g}; raise the TTL or lower the other "
                "times"
            )


class DashboardConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The page that shows the cluster.

    Args:
        listen: ``host:port`` of HTTP, or HTTPS where the server has TLS; empty: no dashboard.
        token: what lets one act there, and beyond loopback look; empty: it only shows, on loopback.
    """

    listen: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        if self.listen:
            _check_address("dashboard listen", self.listen)

    def __repr__(self) -> str:
        return f"DashboardConfig(listen={self.listen!r})"


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of one server that may be tuned; the others are in ``amino.limits``."""

    frame_bytes_max: int = limits.FRAME_BYTES_MAX
    in_flight_per_server_max: int = limits.IN_FLIGHT_PER_SERVER_MAX
    in_flight_per_object_max: int = limits.IN_FLIGHT_PER_OBJECT_MAX
    threads_max: int = limits.THREADS_MAX
    links_max: int = limits.LINKS_PER_SERVER_MAX

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if getattr(self, field) < 1:
                raise Invalid(f"limits {field}={getattr(self, field)}; it must be 1 or more")
        if self.frame_bytes_max < 1 << 20:
            raise Invalid(f"limits frame_bytes_max={self.frame_bytes_max}; give at least 1048576 (1 MiB)")
        if self.in_flight_per_object_max > self.in_flight_per_server_max:
            raise Invalid(
                f"limits in_flight_per_object_max={self.in_flight_per_object_max} is more than "
                f"in_flight_per_server_max={self.in_flight_per_server_max}; lower the former"
            )


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    return name if valid_name(name) else "server"


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel server and its supervisor.

    Args:
        cluster: name of the cluster; servers and clients of another are refused.
        name: identity of the server, unique in the cluster; default: the host's name.
        listen: ``host:port`` of the peer link; port 0 takes a free one.
        grpc_listen: ``host:port`` of gRPC; empty: no gRPC.
        health_listen: ``host:port`` that answers probes over plain HTTP, with one word of state; empty: none.
        dashboard: the page that shows the cluster.
        advertise: ``host`` that others reach this server by, where it differs from that of ``listen``.
        labels: for placement; ``host`` is added.
        capacity: most replicas accepted, 0 for no bound.
        app_dirs: folders that applications are imported from.
        store: URL of the checkpoint store (``file://``, ``s3://``, ...), the same for all servers; empty: none.
        store_options: options for that store's fsspec file system.
        tls: files for both planes. insecure: allow listening beyond loopback without them.
        hold_s: how long calls wait for a session to become valid again.
        hang_s: how long the kernel process may be silent before it is killed.
        dedup_horizon_s: how long answers are kept for retries after a client was last heard of.
        drain_timeout_s: how long a drain may take.
    """

    cluster: str = "amino"
    name: str = msgspec.field(default_factory=_host_name)
    listen: str = "127.0.0.1:7400"
    grpc_listen: str = "127.0.0.1:7401"
    health_listen: str = ""
    dashboard: DashboardConfig = msgspec.field(default_factory=DashboardConfig)
    advertise: str = ""
    etcd: EtcdConfig = msgspec.field(default_factory=EtcdConfig)
    session: SessionConfig = msgspec.field(default_factory=SessionConfig)
    labels: dict[str, str] = {}
    capacity: int = 0
    app_dirs: tuple[str, ...] = ()
    store: str = ""
    store_options: dict[str, Any] = {}
    tls: TlsFiles | None = None
    insecure: bool = False
    hold_s: float = limits.HOLD_S
    hang_s: float = limits.HANG_S
    dedup_horizon_s: float = limits.DEDUP_HORIZON_S
    drain_timeout_s: float = 60.0
    limits: Bounds = msgspec.field(default_factory=Bounds)
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        for field in ("cluster", "name"):
            if not valid_name(getattr(self, field)):
                raise Invalid(
                    f"{field}={getattr(self, field)!r}; use 1 to 128 letters, digits, '.', '_' or '-', "
                    "beginning with a letter or digit"
                )
        if ":" in self.advertise.strip("[]"):
            raise Invalid(f"advertise={self.advertise!r}; write the host alone, the port is that of listen")
        self._check_listeners()
        for key, value in self.labels.items():
            if not _LABEL.match(key) or len(value) > 256:
                raise Invalid(
                    f"label {key!r}={value!r}; keys are letters, digits, '.', '_', '/', '-', values at most 256 characters"
                )
        if self.capacity < 0:
            raise Invalid(f"capacity={self.capacity}; give 0 (no bound) or more")
        for folder in self.app_dirs:
            if not Path(folder).is_dir():
                raise Invalid(f"app_dirs names {folder!r}, which is no folder; create it or remove it from the list")
        if self.store and "://" not in self.store:
            raise Invalid(f"store={self.store!r} is no URL; write file:///path or s3://bucket/prefix")
        _check_range("hold_s", self.hold_s, 0.0, limits.DEADLINE_S_DEFAULT)
        _check_range("hang_s", self.hang_s, HANG_S_MIN, 3600.0)
        _check_range("drain_timeout_s", self.drain_timeout_s, 0.0, 86400.0)
        _check_range("dedup_horizon_s", self.dedup_horizon_s, 2 * limits.DEADLINE_S_DEFAULT, 86400.0)

    def _check_listeners(self) -> None:
        _check_address("listen", self.listen)
        taken = {self.listen: "listen"}
        optional = {
            "grpc_listen": self.grpc_listen,
            "health_listen": self.health_listen,
            "dashboard.listen": self.dashboard.listen,
        }
        for field, address in optional.items():
            if address:
                _check_address(field, address)
                if address in taken and not address.endswith(":0"):
                    raise Invalid(
                        f"{taken[address]} and {field} are both {address!r}, and each needs an address of its own; "
                        f"give {field} another port"
                    )
                taken[address] = field


class ClientConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How commands reach a cluster."""

    address: str = "127.0.0.1:7400"
    cluster: str = "amino"
    tls: TlsFiles | None = None
    timeout_s: float = limits.DEADLINE_S_DEFAULT

    def __post_init__(self) -> None:
        for address in self.addresses:
            _check_address("address", address)
        _check_range("timeout_s", self.timeout_s, 0.001, 86400.0)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The single addresses of a comma-separated list."""
        return tuple(part.strip() for part in self.address.split(",") if part.strip())


def _check_address(field: str, address: str) -> None:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{field}={address!r}; write host:port with a port from 0 to 65535, for example 127.0.0.1:7400")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise Invalid(f"{field}={value:g}; it must be from {low:g} to {high:g}")


# --- loading ---------------------------------------------------------------------------------------------------------

_LISTS = {"app_dirs": os.pathsep, "etcd.endpoints": ","}
_ENVIRONMENT = {
    "AMINO_CLUSTER": "cluster",
    "AMINO_NAME": "name",
    "AMINO_LISTEN": "listen",
    "AMINO_GRPC_LISTEN": "grpc_listen",
    "AMINO_HEALTH_LISTEN": "health_listen",
    "AMINO_DASHBOARD": "dashboard.listen",
    "AMINO_DASHBOARD_TOKEN": "dashboard.token",
    "AMINO_ADVERTISE": "advertise",
    "AMINO_ETCD_ENDPOINTS": "etcd.endpoints",
    "AMINO_ETCD_USER": "etcd.user",
    "AMINO_ETCD_PASSWORD": "etcd.password",
    "AMINO_ETCD_CA": "etcd.tls.ca",
    "AMINO_ETCD_CERT": "etcd.tls.cert",
    "AMINO_ETCD_KEY": "etcd.tls.key",
    "AMINO_SESSION_TTL_S": "session.ttl_s",
    "AMINO_LABELS": "labels",
    "AMINO_CAPACITY": "capacity",
    "AMINO_APP_DIRS": "app_dirs",
    "AMINO_STORE": "store",
    "AMINO_TLS_CA": "tls.ca",
    "AMINO_TLS_CERT": "tls.cert",
    "AMINO_TLS_KEY": "tls.key",
    "AMINO_INSECURE": "insecure",
    "AMINO_HOLD_S": "hold_s",
    "AMINO_HANG_S": "hang_s",
    "AMINO_DEDUP_HORIZON_S": "dedup_horizon_s",
    "AMINO_DRAIN_TIMEOUT_S": "drain_timeout_s",
    "AMINO_LOG_FORMAT": "log_format",
    "AMINO_LOG_LEVEL": "log_level",
}


def environment_names() -> tuple[str, ...]:
    """Return the environment variables that configure a server."""
    return tuple(_ENVIRONMENT)


def load_server_config(
    options: Mapping[str, Any], *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> ServerConfig:
    """Put a server's configuration together: defaults, then ``file``, then the environment, then ``options``.

    Args:
        options: dotted field (``etcd.endpoints``) -> value; a value of None counts as not given.
        file: YAML (``.yaml``, ``.yml``) or TOML (``.toml``).
        environ: default ``os.environ``; see ``environment_names``.

    Raises:
        Invalid: a field is unknown, of the wrong type or out of range; says which, and what to do.
    """
    environ = os.environ if environ is None else environ
    tree: dict[str, Any] = _read_file(file) if file is not None else {}
    for variable, field in _ENVIRONMENT.items():
        if environ.get(variable):
            _put(tree, field, _from_text(variable, field, environ[variable]))
    for field, value in options.items():
        if value is not None:
            _put(tree, field, value)
    return convert(tree, ServerConfig, str(file) if file is not None else "configuration")


def convert(tree: Any, kind: type[C], source: str) -> C:
    """Decode plain data into a configuration of ``kind``; ``Invalid`` names the offending field and ``source``."""
    try:
        return msgspec.convert(tree, kind, strict=False)
    except Invalid as error:
        raise Invalid(f"{source}: {error.message}") from error
    except msgspec.ValidationError as error:
        raise Invalid(f"{source}: {error}; see docs/operations.md for the fields") from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".toml":
            return tomllib.loads(text)
        if file.suffix in {".yaml", ".yml"}:
            import yaml

            tree = yaml.safe_load(text)
        else:
            raise Invalid(f"configuration file {str(file)!r}: unknown kind; name it .yaml or .toml")
    except OSError as error:
        raise Invalid(
            f"configuration file {str(file)!r} cannot be read: {error.strerror}; name a readable file"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"configuration file {str(file)!r} is no valid TOML: {error}") from error
    except ValueError as error:
        raise Invalid(f"configuration file {str(file)!r} cannot be decoded: {error}") from error
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise Invalid(f"configuration file {str(file)!r} is no valid YAML: {error}") from error
        raise
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise Invalid(f"configuration file {str(file)!r} holds a {type(tree).__name__}; write fields and values")
    return tree


def _put(tree: dict[str, Any], field: str, value: Any) -> None:
    *parents, last = field.split(".")
    for parent in parents:
        below = tree.get(parent)
        if not isinstance(below, dict):
            below = tree[parent] = {}
        tree = below
    tree[last] = value


def _from_text(variable: str, field: str, text: str) -> Any:
    if field in _LISTS:
        return [part.strip() for part in text.split(_LISTS[field]) if part.strip()]
    if field == "labels":
        return parse_labels(text.split(","), variable)
    return text


def parse_labels(pairs: list[str], source: str) -> dict[str, str]:
    """Read ``key=value`` pairs; ``Invalid`` names the one that is not."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.strip().partition("=")
        if not separator or not key:
            raise Invalid(f"{source}: {pair!r} is no label; write key=value")
        labels[key] = value
    return labels
