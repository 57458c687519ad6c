"""The operator's variables."""

import pytest

from amino.errors import Invalid
from amino.operator.config import from_environment


def test_by_default_it_acts_on_its_own_namespace():
    """And reaches a cluster on loopback, and scales nothing."""
    config = from_environment({"POD_NAMESPACE": "here"})
    assert (config.namespaces, config.home, config.statefulset) == (("here",), "here", "")
    assert config.client.addresses == ("127.0.0.1:7400",)


def test_everything_can_be_told():
    """Namespaces by commas, bounds as numbers."""
    config = from_environment(
        {
            "AMINO_OPERATOR_NAMESPACES": "a, b", "AMINO_OPERATOR_POLL_S": "2.5", "AMINO_SCALE_STATEFULSET": "amino",
            "AMINO_SCALE_MIN": "1", "AMINO_SCALE_MAX": "4", "AMINO_SCALE_QUIET_S": "60", "AMINO_INSECURE": "true",
            "AMINO_ADDRESS": "x:1,y:2", "AMINO_CLUSTER": "c",
        }
    )  # fmt: skip
    assert (config.namespaces, config.poll_s, config.insecure) == (("a", "b"), 2.5, True)
    assert (config.bounds.servers_min, config.bounds.servers_max, config.bounds.quiet_s) == (1, 4, 60.0)
    assert (config.client.addresses, config.client.cluster) == (("x:1", "y:2"), "c")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"AMINO_SCALE_MAX": "many"}, "AMINO_SCALE_MAX='many' is no number"),
        ({"AMINO_OPERATOR_POLL_S": "0"}, "AMINO_OPERATOR_POLL_S=0"),
        ({"AMINO_SCALE_MIN": "10", "AMINO_SCALE_MAX": "4"}, "from 10 to 4 servers"),
        ({"AMINO_ADDRESS": "nowhere"}, "address='nowhere'"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(environ, words):
    """Each refusal names the variable or the rule."""
    with pytest.raises(Invalid, match=r"=| to ") as caught:
        from_environment(environ)
    assert words in str(caught.value)
