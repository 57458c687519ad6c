"""A chaos suite for MinnieTwitter: no tweet is lost or doubled while servers are killed under those who write.

Run it from the examples' folder: ``python -m pytest minnietwitter/test_chaos.py``.
"""

from __future__ import annotations

from pathlib import Path

from amino.testing.chaos.judges.linearizability import linearizable
from amino.testing.chaos.judges.liveness import liveness
from amino.testing.chaos.judges.models import Counter
from amino.testing.chaos.judges.once import exactly_once
from amino.testing.chaos.record import FaultRecord
from minnietwitter.twitter import Twitter, entry

amino_cluster = {"servers": 3, "session_ttl_s": 2, "app_dirs": [Path(__file__).parents[1]]}


def test_no_tweet_is_lost_or_doubled(cluster, history):
    """Five people write to one timeline; every server's kernel process is killed once."""
    faults = []
    with cluster.connect() as connection:
        connection.define_app("minnietwitter", entry())
        ada = connection.app("minnietwitter", Twitter).sign_up("ada")

        def write(worker, random):
            text = f"tweet {random.getrandbits(60):x} of worker {worker}"
            history.ask(worker, "add", "ada", text, lambda: ada.timeline.append(text).number)

        with history.workers(write):
            for server in cluster.servers.values():
                fault = FaultRecord("kill-kernel", server.name, history.now_s)
                before = server.kill_kernel()
                fault.verified = server.wait_serving(after=before) > before
                fault.healed_s = history.now_s
                faults.append(fault)
        tweets = [tweet.text for tweet in ada.timeline.all()]

    history.check(
        exactly_once(history.operations, {"ada": tweets}),  # each acknowledged tweet is there, and no tweet twice
        linearizable(history.operations, Counter({"ada": tweets})),  # each has the number that was told
        liveness(history.operations, faults, patience_s=10.0),  # nobody waits longer than that after a kill
    )
