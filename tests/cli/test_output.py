"""Output and errors of commands: forms, exit codes, names on the command line."""

import json

import pytest
import yaml

from amino import errors
from amino.cli import application, failures, names, output
from amino.cli.operations import value_of
from amino.cli.output import Column, Form, ValueForm

ROWS = [{"a": 1, "b": "x"}, {"a": 22, "b": ""}]
COLUMNS = [
    Column("A", lambda row: row["a"]),
    Column("BEE", lambda row: row["b"]),
    Column("W", lambda _: "w", wide=True),
]


def test_a_pipe_gets_plain_columns(capsys):
    """Without a terminal a table is plain text, aligned, with nothing cut off."""
    output.show_rows(ROWS, COLUMNS, Form.TABLE, dict)
    assert capsys.readouterr().out == "A   BEE\n1   x\n22\n"
    output.show_rows(ROWS, COLUMNS, Form.WIDE, dict)
    assert capsys.readouterr().out.splitlines()[0] == "A   BEE  W"


def test_no_rows_are_a_table_too(capsys):
    """An empty list shows its titles, and is an empty list in JSON."""
    output.show_rows([], COLUMNS, Form.TABLE, dict)
    assert capsys.readouterr().out == "A  BEE\n"
    output.show_rows([], COLUMNS, Form.JSON, dict)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(("form", "read"), [(Form.JSON, json.loads), (Form.YAML, yaml.safe_load)])
def test_machine_forms_hold_the_whole_rows(capsys, form, read):
    """JSON and YAML have every field, whatever the columns show."""
    output.show_rows(ROWS, COLUMNS, form, dict)
    assert read(capsys.readouterr().out) == ROWS


@pytest.mark.parametrize(
    ("value", "text"),
    [("plain", "plain\n"), ({"a": [1, None]}, '{"a": [1, null]}\n'), (object, "<class 'object'>\n"), (b"x", "eA==\n")],
)
def test_values_are_shown_as_json_or_as_they_are(capsys, value, text):
    """Strings are shown bare, data as JSON, and what JSON cannot hold as its repr."""
    output.show_value(value, ValueForm.TEXT)
    assert capsys.readouterr().out == text


def test_ages_and_sizes_are_for_people():
    """The largest fitting unit, no more."""
    assert [output.age(1000.0 - s, 1000.0) for s in (5, 65, 999)] == ["5s", "1m", "16m"]
    assert output.age(0.0) == ""
    assert [output.size(n) for n in (5, 2048, 3 << 20, 5 << 30)] == ["5 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), 3),
        (errors.Overloaded("x"), 4),
        (errors.ClusterUnavailable("x"), 4),
        (errors.CoordinationUnavailable("x"), 4),
        (errors.OutcomeUnknown("x"), 5),
        (errors.Invalid("x"), 1),
        (errors.StateLost("x"), 1),
        (ValueError("x"), 1),
    ],
)
def test_exit_codes_tell_what_to_do_next(error, code):
    """Scripts tell missing, unavailable and unknown apart by the code alone."""
    assert failures.exit_code(error) == code


def test_errors_are_told_in_two_lines():
    """What happened, then what to do; without a remedy of its own an error gets that of its kind."""
    assert failures.explain(errors.Invalid("a=1 is bad; a is odd; write 2")) == ["a=1 is bad; a is odd", "write 2"]
    assert failures.explain(errors.StateLost("it is gone"))[1].startswith("amino restore")
    assert failures.explain(KeyError("a\nb"))[0] == "a bug: KeyError: 'a\\nb'"
    assert failures.explain(errors.Conflict("no\n  remedy")) == ["no remedy"]


def test_every_error_has_words_and_a_code():
    """No kind of error falls through the tables."""
    for kind in errors.by_code().values():
        assert failures.explain(kind("what"))[0] == "what"
        assert failures.exit_code(kind("what")) in {1, 3, 4, 5}


def test_a_method_that_raised_is_told_by_its_type():
    """Both errors that can be rebuilt here and those that cannot are shown with their own type."""
    for cause, words in (
        (ValueError("no"), "the method raised ValueError: no"),
        (errors.RemoteError("no", type_name="shop.Broke"), "the method raised shop.Broke: no"),
    ):
        error = failures.ApplicationFailed()
        error.__cause__ = cause
        assert failures.explain(error) == [words]


def test_ids_and_names_are_told_apart():
    """24 hexadecimal digits are an id; what is neither is refused."""
    assert names.naming("a" * 24) == {"microservice": "a" * 24}
    assert names.naming("hits") == {"name": "hits"}
    with pytest.raises(errors.Invalid, match="names no microservice"):
        names.naming("a b")


def test_conditions_on_labels():
    """Labels are written as equations, lists, exclusions or bare keys."""
    found = names.conditions(["a=1", "b=1,2", "c!=3", "d"])
    assert [(each.key, each.operator, each.values) for each in found] == [
        ("a", "Equal", ("1",)), ("b", "In", ("1", "2")), ("c", "NotIn", ("3",)), ("d", "Exists", ()),
    ]  # fmt: skip
    with pytest.raises(errors.Invalid, match="key=value"):
        names.conditions(["=1"])


def test_arguments_are_json_or_text():
    """Numbers, lists and quoted strings are JSON; the rest is text."""
    assert [value_of(text) for text in ("5", "[1]", '"5"', "true", "hello", "-1.5")] == [
        5,
        [1],
        "5",
        True,
        "hello",
        -1.5,
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["version"], 0), (["get"], 2), (["nonsense"], 2), (["get", "servers", "-o", "xml"], 2), (["call", "-h"], 0)],
)
def test_usage_errors_have_code_2(capsys, arguments, code):
    """The command line itself is checked before anything is done."""
    with pytest.raises(SystemExit) as ended:
        application.run(arguments)
    assert ended.value.code == code
    capsys.readouterr()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_can_be_had(capsys, monkeypatch, shell):
    """Each shell gets its script."""
    monkeypatch.setenv("_AMINO_COMPLETE", "")
    with pytest.raises(SystemExit) as ended:
        application.run(["completion", shell])
    assert ended.value.code == 0
    assert "_AMINO_COMPLETE" in capsys.readouterr().out
