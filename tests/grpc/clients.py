"""Runs the clients that know nothing but the .proto files, against any address.

Owns making them (protoc, npm) and running them. Leaves what they check to the clients themselves.
Failure behaviour: a client that fails makes the test fail with what it printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import amino.wire

HERE = Path(__file__).resolve().parent
PROTOS = Path(amino.wire.__file__).resolve().parent / "proto"
CLIENT_S = 60.0


def generate_plain(folder: Path) -> Path:
    """Generate Python code from the .proto files into ``folder``, as any user of grpcio would."""
    import grpc_tools
    from grpc_tools import protoc

    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main([*arguments, *files]) == 0
    return folder


def install_node(folder: Path) -> Path:
    """Return the Node.js client with its packages: here if they are installed, else installed in ``folder``."""
    source = HERE / "node"
    if (source / "node_modules" / "@grpc" / "grpc-js").is_dir():
        return source / "client.js"
    if not (folder / "node_modules" / "@grpc" / "grpc-js").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json", "client.js"):
            shutil.copy(source / name, folder / name)
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True, timeout=CLIENT_S
        )
    return folder / "client.js"


async def run_client(*command: str | Path) -> list[str]:
    """Run a client and return what it checked."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        out, problems = await asyncio.wait_for(process.communicate(), CLIENT_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{out.decode()}\n{problems.decode()}"
    return json.loads(out)["checks"]


async def run_plain(address: str, generated: Path, class_path: str) -> list[str]:
    """Run the plain grpcio client."""
    return await run_client(sys.executable, HERE / "plain_client.py", address, generated, class_path)


async def run_node(address: str, client: Path, class_path: str) -> list[str]:
    """Run the Node.js client."""
    return await run_client("node", client, address, PROTOS, class_path)
