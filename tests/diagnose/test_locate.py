from synthetic import Synthetic

from gradscope.diagnose.finding import Location
from gradscope.diagnose.locate import location_of, site_location


def test_the_nearest_parent_with_a_line_is_taken():
    made = Synthetic(1)
    made.module("encoder", line=20)
    made.module("encoder.attention", file=None, line=None)
    recording = made.build()
    assert location_of(recording, "encoder") == Location("model.py", 20)
    assert location_of(recording, "encoder.attention") == Location("model.py", 20)
    assert location_of(recording, "nowhere") == Location("model.py", 10), "the root's line"


def test_no_line_at_all():
    made = Synthetic(1)
    made._modules[0].update(file=None, line=None)
    assert location_of(made.build(), "") is None


def test_sites():
    assert site_location("a/train.py:7") == Location("a/train.py", 7)
    assert site_location("C:\\a\\train.py:7") == Location("C:\\a\\train.py", 7)
    for bad in (None, "", "train.py", "train.py:x", ":7"):
        assert site_location(bad) is None
