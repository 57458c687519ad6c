"""The operator as a process: it finds Kubernetes by a kubeconfig, works, and ends when told to."""

import asyncio
import json
import signal
import sys

import pytest

from amino.node.child_process import python_environment
from tests.operator.api_server import NAMESPACE, ApiServer

pytestmark = pytest.mark.real
PATIENCE_S = 60.0


async def start(**environ):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "amino.operator", env=python_environment(**environ), stderr=asyncio.subprocess.PIPE
    )


async def test_it_works_until_sigterm(tmp_path):
    """A resource gets the operator's finalizer; SIGTERM ends the process with code 0, cluster of Amino or not."""
    async with ApiServer() as kubernetes:
        config = tmp_path / "kubeconfig"
        context = {"name": "c", "context": {"cluster": "k", "user": "u", "namespace": NAMESPACE}}
        config.write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [context],
                    "clusters": [{"name": "k", "cluster": {"server": kubernetes.url}}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
        await kubernetes.apply(
            'apiVersion: amino.run/v1\nkind: Microservice\nmetadata: {name: one}\nspec: {class: "a:B"}'
        )
        process = await start(
            KUBECONFIG=str(config), KUBERNETES_SERVICE_HOST="", POD_NAMESPACE=NAMESPACE, AMINO_ADDRESS="127.0.0.1:1"
        )
        try:
            found = await kubernetes.until("microservices", "one", lambda it: it["metadata"].get("finalizers"))
            assert found["metadata"]["finalizers"] == ["amino.run/operator"]
            process.send_signal(signal.SIGTERM)
            _, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        except BaseException:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode == 0, said.decode()
        assert "Traceback" not in said.decode()


async def test_a_wrong_setting_is_one_line():
    """What cannot be is said at once, without a traceback."""
    process = await start(AMINO_SCALE_MAX="many")
    _, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert said.decode().splitlines() == ["error: AMINO_SCALE_MAX='many' is no number; give one from 1 to 1000"]
