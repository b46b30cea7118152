"""A watched training in a temporary folder, for the tests of the observer."""

import contextlib
import hashlib
import random

import numpy as np
import torch

from gradscope.observe.observer import Observer
from gradscope.recording.load import load_run
from gradscope.recording.writer import Writer


@contextlib.contextmanager
def observed(folder, *models, every=1, activations_every=1, **options):
    """An attached observer that records every step, unless told otherwise; closes its writer."""
    writer = Writer(folder)
    observer = Observer(
        models, writer=writer, every=every, activations_every=activations_every, **options
    )
    observer.attach()
    try:
        yield observer
    finally:
        observer.detach()
        writer.close()


def recording(folder):
    return load_run(folder)


def fingerprint(*models, losses=()):
    """sha256 of all weights, buffers, losses and random states, to the last bit."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
    digest.update(repr([float(loss).hex() for loss in losses]).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    digest.update(repr(random.getstate()).encode())
    digest.update(np.random.get_state()[1].tobytes())  # noqa: NPY002  the global state is the subject
    return digest.hexdigest()


def seed_everything(seed=0):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
