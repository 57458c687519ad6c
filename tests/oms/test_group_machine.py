"""The group machine against its golden traces, and its promises on documents at random."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.contracts.documents import GroupDocument, Move, Phase, ReplicaDocument, Tombstone
from amino.oms import group_machine as machine

GOLDEN = Path(__file__).parent / "golden"
REPLICA = re.compile(r"(?P<id>\w+)@(?P<server>\w+)#(?P<incarnation>\d+)(?P<confirmed>!)?(?:/(?P<source>\w+))?")


def _replica(text: str) -> ReplicaDocument:
    found = REPLICA.fullmatch(text)
    assert found, text
    return ReplicaDocument(
        found["id"],
        found["server"],
        int(found["incarnation"]),
        bool(found["confirmed"]),
        found["source"] or "construct",
    )


def _shown(replica: ReplicaDocument) -> str:
    confirmed = "!" if replica.confirmed else f"/{replica.source}"
    return f"{replica.id}@{replica.server}#{replica.incarnation}{confirmed}"


def _fields(line: str) -> dict[str, str]:
    fields = {}
    for word in line.split():
        key, _, value = word.partition("=")
        fields[key] = value
    return fields


def _parse_document(line: str) -> GroupDocument:
    phase, _, rest = line.partition(" ")
    fields = _fields(rest)
    replicas = tuple(_replica(text) for text in fields.get("replicas", "").split(",") if text)
    return GroupDocument(
        phase=phase,
        epoch=int(fields["epoch"]),
        replicas=replicas,
        move=Move(replicas[0].id, _replica(fields["move"])) if "move" in fields else None,
        leftovers=tuple(_replica(text) for text in fields.get("leftovers", "").split(",") if text),
        constructed="constructed" in fields,
        deaths={name: int(count) for name, count in re.findall(r"(\w+):(\d+)", fields.get("deaths", ""))},
    )


def _shown_document(document: GroupDocument) -> str:
    words = [document.phase, f"epoch={document.epoch}"]
    if document.constructed:
        words.append("constructed")
    if document.replicas:
        words.append("replicas=" + ",".join(map(_shown, document.replicas)))
    if document.move is not None:
        words.append(f"move={_shown(document.move.target)}")
    if document.leftovers:
        words.append("leftovers=" + ",".join(map(_shown, document.leftovers)))
    if document.deaths:
        words.append("deaths=" + ",".join(f"{name}:{count}" for name, count in sorted(document.deaths.items())))
    return " ".join(words)


def _parse_view(line: str) -> machine.View:
    fields = _fields(line)
    tombstones = {}
    for host, suspects in re.findall(r"(\w+#\d+):([\w+]*)", fields.get("tombstones", "")):
        server, _, incarnation = host.partition("#")
        methods = tuple(("me", method) for method in suspects.split("+") if method)
        tombstones[server, int(incarnation)] = Tombstone("signal 9", (*methods, ("other", "add")))
    return machine.View(
        microservice="me",
        live={server: int(number) for server, number in re.findall(r"(\w+)#(\d+)", fields.get("live", ""))},
        recovery=fields.get("recovery", "none"),
        tombstones=tombstones,
        paused="paused" in fields,
        record="no-record" not in fields,
    )


def _shown_step(step: machine.Step) -> str:
    match step:
        case machine.Done():
            return "done"
        case machine.Wait(why):
            return f"wait: {why}"
        case machine.Place(base, source, lost, why):
            proof = f" proving {_shown(lost)} lost" if lost else ""
            return f"place by {source}{proof} on: {_shown_document(base)} because {why}"
        case machine.Write(document, lost, why, orphan):
            proof = f" proving {_shown(lost)} lost" if lost else ""
            proof += " proving there is no record" if orphan else ""
            reason = f" ({document.reason})" if document.reason else ""
            return f"write{proof}: {_shown_document(document)}{reason} because {why}"
        case machine.Instantiate(replica, source):
            return f"instantiate {_shown(replica)} by {source}"
        case machine.Retire(replicas, document):
            return f"retire {','.join(map(_shown, replicas)) or 'nothing'} then write: {_shown_document(document)}"
        case machine.Destroy(replicas):
            return f"destroy {','.join(map(_shown, replicas)) or 'nothing'}"
    raise AssertionError(step)


def _run(text: str) -> str:
    """Return ``text`` with every line of steps as the machine makes it now."""
    lines = []
    document = view = None
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "document":
            document = _parse_document(rest)
        elif kind == "view":
            view = _parse_view(rest)
        elif kind == "step":
            assert document is not None
            assert view is not None
            line = f"step {_shown_step(machine.next_step(document, view))}"
        lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_golden_traces(path) -> None:
    """The machine does what the reviewed traces say (AMINO_GOLDEN=1 rewrites them)."""
    text = path.read_text(encoding="utf-8")
    now = _run(text)
    if os.environ.get("AMINO_GOLDEN"):
        path.write_text(now, encoding="utf-8")
    assert now == path.read_text(encoding="utf-8")


SERVERS = ("s1", "s2", "s3")
replicas = st.builds(
    ReplicaDocument,
    id=st.sampled_from("abcdef"),
    server=st.sampled_from(SERVERS),
    incarnation=st.integers(1, 2),
    confirmed=st.booleans(),
    source=st.sampled_from(["construct", "checkpoint", "resume"]),
)


@st.composite
def documents(draw) -> GroupDocument:
    """Any document that some sequence of crashes could leave."""
    phase = draw(st.sampled_from([Phase.CREATING, Phase.ACTIVE, Phase.LOST, Phase.QUARANTINED, Phase.DELETING]))
    held = draw(st.lists(replicas, max_size=1))
    if phase in (Phase.LOST, Phase.QUARANTINED):
        held = []
    if phase == Phase.CREATING:
        held = [msgspec.structs.replace(replica, confirmed=False, source="construct") for replica in held]
    move = Move(held[0].id, draw(replicas)) if held and phase != Phase.CREATING and draw(st.booleans()) else None
    return GroupDocument(
        phase=phase,
        epoch=draw(st.integers(1, 9)),
        replicas=tuple(held),
        move=move,
        leftovers=tuple(draw(st.lists(replicas, max_size=2))),
        constructed=phase != Phase.CREATING and draw(st.booleans()) if phase != Phase.ACTIVE else True,
        deaths=draw(st.dictionaries(st.sampled_from(["add", "__restore__"]), st.integers(1, 2), max_size=2)),
    )


views = st.builds(
    machine.View,
    microservice=st.just("me"),
    live=st.dictionaries(st.sampled_from(SERVERS), st.integers(1, 2), min_size=1),
    recovery=st.sampled_from(["checkpoint", "construct", "none"]),
    paused=st.just(False),
)


@given(documents(), views)
def test_every_document_leads_to_an_end(document, view) -> None:
    """If commands succeed, any stored document reaches its end in a few steps; epochs never fall, live homes stay."""
    epoch = document.epoch
    for _ in range(8):
        step = machine.next_step(document, view)
        before = document
        match step:
            case machine.Done() | machine.Destroy():
                break
            case machine.Place(base, source, lost, _):
                assert lost is None or not view.lives(lost), "nothing is placed anew while its server lives"
                server, incarnation = next(iter(view.live.items()))
                document = machine.placed(base, ReplicaDocument("new", server, incarnation, False, source), "")
            case machine.Write(document, lost, _):
                assert lost is None or not view.lives(lost)
            case machine.Instantiate(replica, _):
                assert view.lives(replica)
                document = machine.confirmed(document, {})
            case machine.Retire(_, document):
                pass
        assert document.epoch >= epoch
        moved = {replica.id for replica in document.replicas} != {replica.id for replica in before.replicas}
        if moved and document.replicas:
            assert document.epoch > before.epoch, "a new home has a new epoch"
        epoch = document.epoch
    else:
        raise AssertionError(f"no end: {document}")
    if isinstance(step, machine.Done):
        assert document.move is None
        assert not document.leftovers
        assert machine.state_of(document) in ("active", "lost", "quarantined")


@given(documents(), views)
def test_reading_a_document_back_changes_nothing(document, view) -> None:
    """The next step depends on what is stored only: a successor decides as the one before."""
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(document), type=GroupDocument)
    assert machine.next_step(stored, view) == machine.next_step(document, view)
