"""TLS and passwords towards a real etcd: what works, what is refused, and tokens that expire."""

from __future__ import annotations

import datetime
import ipaddress

import grpc.aio
import pytest
from aetcd import rpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from amino.coordination.etcd import EtcdStore, EtcdTls
from amino.coordination.store import Put
from amino.errors import CoordinationUnavailable, Invalid
from amino.node.embedded_etcd import EmbeddedEtcd

pytestmark = pytest.mark.real


def _certificate(folder, name, *, issuer=None):
    """Write a key and a certificate signed by ``issuer`` (itself if None); return both objects."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[1].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    certificate = builder.sign(key if issuer is None else issuer[0], hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(encoded)
    return key, certificate


async def test_tls(etcd_binary, etcd_folder, tmp_path):
    """With the right certificates all works, watches included; without them, or with strangers', nothing does."""
    authority = _certificate(tmp_path, "authority")
    for name in ("server", "client"):
        _certificate(tmp_path, name, issuer=authority)
    _certificate(tmp_path, "stranger")
    extra = [
        *("--cert-file", str(tmp_path / "server.pem"), "--key-file", str(tmp_path / "server.key")),
        *("--client-cert-auth", "--trusted-ca-file", str(tmp_path / "authority.pem")),
    ]
    etcd = await EmbeddedEtcd.start(binary=etcd_binary, folder=etcd_folder, extra=extra, scheme="https")
    tls = EtcdTls(tmp_path / "authority.pem", tmp_path / "client.pem", tmp_path / "client.key")
    store = await EtcdStore.open([f"https://{etcd.endpoints[0]}"], tls=tls)
    revision = (await store.txn([], [Put("/a", b"1")])).revision
    async for batch in store.watch("/a", revision):
        assert [event.record.value for event in batch.events] == [b"1"]
        break
    await store.aclose()
    for wrong in (
        None,
        EtcdTls(tmp_path / "authority.pem"),
        EtcdTls(tmp_path / "authority.pem", tmp_path / "stranger.pem", tmp_path / "stranger.key"),
        EtcdTls(tmp_path / "stranger.pem", tmp_path / "client.pem", tmp_path / "client.key"),
    ):
        store = await EtcdStore.open(etcd.endpoints, tls=wrong, request_timeout_s=0.5)
        with pytest.raises(CoordinationUnavailable):
            await store.get("/a")
        await store.aclose()
    await etcd.aclose(at_once=True)


async def test_settings_that_cannot_work():
    """Half a certificate, unreadable files, bad addresses and half a password are refused before anything is sent."""
    with pytest.raises(Invalid, match="belong together"):
        EtcdTls(cert_file="x")
    for options in (
        {"endpoints": []},
        {"endpoints": ["localhost"]},
        {"endpoints": ["localhost:0"]},
        {"endpoints": ["https://127.0.0.1:2379"]},
        {"endpoints": ["http://127.0.0.1:2379"], "tls": EtcdTls()},
        {"endpoints": ["127.0.0.1:2379"], "tls": EtcdTls(ca_file="/nowhere.pem")},
        {"endpoints": ["127.0.0.1:2379"], "user": "root"},
        {"endpoints": ["127.0.0.1:2379"], "request_timeout_s": 0},
    ):
        with pytest.raises(Invalid):
            await EtcdStore.open(**options)


async def _enable_auth(endpoint):
    async with grpc.aio.insecure_channel(endpoint) as channel:
        auth = rpc.AuthStub(channel)
        for name in ("root", "amino"):
            await auth.UserAdd(rpc.AuthUserAddRequest(name=name, password="secret"), wait_for_ready=True)
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name="amino"))
        permission = rpc.Permission(permType=rpc.Permission.READWRITE, key=b"/amino/", range_end=b"/amino0")
        await auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name="amino", perm=permission))
        for name in ("root", "amino"):
            await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
        await auth.AuthEnable(rpc.AuthEnableRequest())


async def test_passwords(etcd_one):
    """Name and password let us in where our role allows; each refusal says what to check."""
    await _enable_auth(etcd_one.endpoints[0])
    store = await EtcdStore.open(etcd_one.endpoints, user="amino", password="secret")
    lease = await store.grant(5)
    revision = (await store.txn([], [Put("/amino/a", b"1", lease)])).revision
    assert await store.keep_alive(lease) > 0
    with pytest.raises(Invalid, match="grant our user"):
        await store.get("/other")
    with pytest.raises(Invalid, match="grant our user"):
        async for _ in store.watch("/other", revision):
            pass
    store._connection.metadata = (("token", "expired.1"),)
    assert (await store.get("/amino/a")).value == b"1"
    store._connection.metadata = (("token", "expired.2"),)
    async for batch in store.watch("/amino/", revision):
        assert [event.record.value for event in batch.events] == [b"1"]
        break
    await etcd_one.kill(0)
    await etcd_one.start_member(0)
    await etcd_one.wait_ready()
    assert (await store.get("/amino/a")).value == b"1"
    await store.aclose()
    for user, password in ((None, None), ("amino", "wrong"), ("nobody", "secret")):
        store = await EtcdStore.open(etcd_one.endpoints, user=user, password=password)
        with pytest.raises(Invalid, match="etcd at"):
            await store.get("/amino/a")
        await store.aclose()
