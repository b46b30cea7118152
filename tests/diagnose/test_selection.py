import pytest

from gradscope.diagnose.finding import Finding
from gradscope.diagnose.selection import Pattern, ignore_keys


def finding(*modules, parameters=()):
    return Finding("GS101", "n", "note", "strong", "s", modules=modules, parameters=parameters)


@pytest.mark.parametrize(
    ("layers", "modules", "covers"),
    [
        ("", ("a.0",), True),
        ("a.*", ("a.0", "a.1"), True),
        ("a.*", ("a.0", "b.0"), False),
        ("a.[01]", ("a.1",), True),
        ("A.*", ("a.0",), False),
        ("*", ("",), True),
    ],
)
def test_a_layer_pattern_covers_only_what_it_matches_whole(layers, modules, covers):
    assert Pattern("GS1", layers).covers(finding(*modules)) is covers


def test_parameters_count_where_no_module_is_named():
    assert Pattern("GS101", "W*").covers(finding(parameters=("W1", "W2")))
    assert not Pattern("GS101", "*").covers(finding())
    assert Pattern("GS101", "").covers(finding())


@pytest.mark.parametrize(
    "found", [finding("a.0"), finding("a.0", "b.1"), finding(parameters=("W1",)), finding()]
)
def test_each_finding_can_be_silenced_by_its_keys(found):
    keys = ignore_keys(found)
    patterns = [Pattern(*key.partition(":")[::2]) for key in keys]
    names = found.modules or found.parameters or ("",)
    assert all(any(p.covers(finding(name)) or not p.layers for p in patterns) for name in names)
