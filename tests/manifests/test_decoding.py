"""Manifests: what they mean, and with which words a wrong one is refused."""

from pathlib import Path

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import Invalid
from amino.manifests import decoding as manifests

FULL = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {name: hits, labels: {team: web}}
spec:
  class: shop.counter:Counter
  args: [100]
  kwargs: {step: 2}
  dms:
    - AtLeastOnceRPC: {timeout_s: 20}
    - PeriodicCheckpoint: {every: 10}
    - SerializableRPC
  placement:
    selector: [{key: region, operator: In, values: [eu]}]
    spread: [host]
  onLoss: recreate
"""
SHORT = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {name: m}
spec: {class: "a:B"}
"""


class Counter:
    """Stands for the class of the manifest."""


def decode(text):
    return manifests.decode(text.encode(), "m.yaml", Path())


def test_a_manifest_means_the_same_as_the_python_spec():
    """Both ways to write a spec give one document."""
    [found] = decode(FULL)
    dms = [AtLeastOnceRPC(timeout_s=20), PeriodicCheckpoint(every=10), SerializableRPC()]
    python = amino.spec(
        Counter, name="hits", dms=dms, selector={"region": ["eu"]}, on_loss="recreate", labels={"team": "web"}
    )
    expected = python.document
    assert found.spec == type(expected)(
        **{**{f: getattr(expected, f) for f in expected.__struct_fields__}, "cls": "shop.counter:Counter"}
    )
    assert (found.args, found.kwargs, found.kind, found.name) == ([100], {"step": 2}, "Microservice", "hits")


def test_terms_of_a_selector_are_ored():
    """A list of lists holds where one of them does; a plain list holds where all of it does."""
    [found] = decode(SHORT.replace("spec: {class", "spec: {placement: {selector: [[{key: a}], [{key: b}]]}, class"))
    assert [[each.key for each in term] for term in found.spec.placement.selector] == [["a"], ["b"]]


def test_a_file_holds_several_documents(tmp_path):
    """Documents are separated as YAML does; an application names its entry and its code."""
    application = (
        "apiVersion: amino.run/v1\nkind: Application\nmetadata: {name: shop}\n"
        "spec: {code: ./src, entry: {class: 'shop:Entry', dms: [AtLeastOnceRPC]}}"
    )
    file = tmp_path / "all.yaml"
    file.write_text(f"{SHORT}---\n---\n{application}\n")
    first, second = manifests.read(file)
    assert first.where == f"{file}, document 1"
    assert (second.kind, second.name, second.code, second.spec.application) == ("Application", "shop", "./src", "shop")
    assert second.where == f"{file}, document 3"
    assert second.folder == tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "no valid YAML"),
        ("", "holds no document"),
        ("- a", "is a list"),
        ("kind: Pod", "kind 'Pod' is unknown; write one of Microservice, Application"),
        (SHORT.replace("/v1", "/v9"), "apiVersion 'amino.run/v9'"),
        (SHORT.replace("spec:", "specs:"), "unknown field `specs`"),
        (SHORT.replace("class", "clas"), "unknown field `clas`"),
        (SHORT.replace('"a:B"', '"a:B", colour: red'), "unknown field `colour` - at `$.spec`"),
        (SHORT.replace("a:B", "a.B"), "write module:Class"),
        (SHORT.replace("name: m", "name: m m"), "metadata.name 'm m'"),
        (SHORT.replace('"a:B"', '"a:B", args: 5'), "Expected `array`, got `int` - at `$.spec.args`"),
        (SHORT.replace('"a:B"', '"a:B", onLoss: cry'), "$.spec.onLoss"),
        (SHORT.replace('"a:B"', '"a:B", dms: [{A: {}, B: {}}]'), "begin a new '-'"),
        (SHORT.replace('"a:B"', '"a:B", dms: [{PeriodicCheckpoint: {every: 0}}]'), "every"),
        (SHORT.replace('"a:B"', '"a:B", placement: {selector: [{key: a, operator: Like}]}'), "placement.selector"),
        (SHORT.replace('"a:B"', '"a:B", class: "c:D"'), "'class' is given twice"),
        (SHORT.replace('"a:B"', '&x "a:B", args: [*x]'), "aliases are not supported"),
    ],
)
def test_a_wrong_manifest_is_refused_by_file_and_field(text, words):
    """The error names the file, the field and the rule."""
    with pytest.raises(Invalid) as caught:
        decode(text)
    assert "m.yaml" in str(caught.value)
    assert words in str(caught.value)


def test_a_manifest_is_bounded(tmp_path):
    """A file larger than the bound is refused before it is parsed; a missing one by its name."""
    with pytest.raises(Invalid, match="split it"):
        decode("#" * (manifests.BYTES_MAX + 1))
    with pytest.raises(Invalid, match="cannot be read"):
        manifests.read(tmp_path / "none.yaml")


def test_managers_that_are_not_installed_here_are_left_to_the_servers():
    """A chain with an unknown manager passes as it is."""
    [found] = decode(SHORT.replace('"a:B"', '"a:B", dms: [{Theirs: {x: 1}}]'))
    assert [(dm.name, dm.options) for dm in found.spec.dms] == [("Theirs", {"x": 1})]
