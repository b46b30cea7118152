import gc
import weakref

import numpy as np
from synthetic import Synthetic

from gradscope.diagnose.once import once


def counted():
    calls = []

    @once
    def measure(recording, window=None, *, root=0):
        calls.append((recording, window, root))
        return len(calls)

    return measure, calls


def test_a_measure_is_taken_once_for_a_recording_and_its_arguments():
    measure, calls = counted()
    one, other = Synthetic(5).build(), Synthetic(5).build()
    assert measure(one) == measure(one) == 1
    assert measure(other) == 2
    assert measure(one, np.arange(3)) == measure(one, np.arange(3)) == 3
    assert measure(one, np.arange(4)) == 4
    assert measure(one, root=1) == 5
    assert len(calls) == 5


def test_a_recording_is_let_go():
    @once
    def measure(recording):
        return 1

    made = Synthetic(5).build()
    measure(made)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
