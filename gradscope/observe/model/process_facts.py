"""Facts about the process in which a training runs."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

import gradscope
from gradscope.recording.facts import SCHEMA_VERSION


def process_facts(parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Versions, start, rank, and the device and format of most of ``parameters``."""
    dtypes: Counter[str] = Counter()
    for parameter in parameters:
        dtypes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "schema_version": SCHEMA_VERSION,
        "version": gradscope.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "rank": torch.distributed.get_rank() if distributed else 0,
        "world_size": torch.distributed.get_world_size() if distributed else 1,
        "device": str(parameters[0].device) if parameters else "cpu",
        "dtype": dtypes.most_common(1)[0][0] if dtypes else "float32",
    }


def autocast_dtype(parameters: Sequence[Tensor]) -> str | None:
    """The dtype into which autocast puts operations on the parameters' device now, or None."""
    kind = parameters[0].device.type if parameters else "cpu"
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
