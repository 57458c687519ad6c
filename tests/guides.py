"""Running the examples of documents as they are.

Owns cutting the first Python block out of a page and running it against a cluster. Leaves what it should print to the tests.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 60.0


def printed_by(page: str, address: str, folder: Path, etcd: str = "") -> tuple[str, str]:
    """Return what the first example of ``docs/PAGE.md`` prints, and what it says on standard error.

    Args:
        address: of the cluster, in place of the one in the document. folder: for the script.
        etcd: of the cluster, likewise.
    """
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"docs/{page}.md has no example"
    script = folder / "example.py"
    text = found[1].replace("127.0.0.1:7400", address).replace("127.0.0.1:2379", etcd or "127.0.0.1:2379")
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    return done.stdout, done.stderr
