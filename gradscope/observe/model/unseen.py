"""What could not be observed of a training, in sentences for the report's banner."""

from __future__ import annotations

from collections.abc import Sequence

NAMES = 3
"""Modules named in one sentence."""


def unseen(
    *, steps: int, forwards: bool, backwards: int, others: int, uncalled: Sequence[str]
) -> list[str]:
    """Sentences about what is missing from a recording.

    Args:
        steps: steps recorded.
        forwards: whether a forward of the watched model was seen, with gradients enabled.
        backwards: backward calls since the last step.
        others: optimizer steps that changed no watched parameter.
        uncalled: paths of modules whose parameters the loss depends on and whose call was not seen.
    """
    said = []
    if not steps:
        facts = [
            "no forward of it with gradients" if not forwards else "its forward",
            "no backward call for it" if not backwards else f"{backwards} backward calls",
            f"{others} optimizer steps on other parameters" if others else "no optimizer step",
        ]
        said.append(
            "no training step of the watched model was seen in this process "
            f"(seen: {', '.join(facts)}): nothing about its training is recorded"
        )
    if uncalled:
        said.append(
            f"parameters of {listed(uncalled)} are used without a call of the module that hooks "
            "see (by a function, a fused kernel or compiled code): the parameters are recorded "
            "exactly, inputs and outputs of these modules are not"
        )
    return said


def listed(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    more = len(names) - NAMES
    first = ", ".join(name or "the model itself" for name in names[:NAMES])
    return f"{first} and {more} more" if more > 0 else first


def unseen_inside(paths: Sequence[str], *, script: bool) -> str:
    """The sentence about modules whose calls run as compiled code.

    Args:
        paths: the topmost ones; ``""`` for a whole model.
        script: TorchScript's, not ``torch.compile``'s.
    """
    what = "TorchScript" if script else "compiled"
    which = "model" if "" in paths else listed(paths)
    return f"{what} {which}: parameters are recorded exactly, modules inside are not seen"
