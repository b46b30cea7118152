"""Whether a root can be run again by one process alone, and the reason where it cannot."""

from __future__ import annotations

import torch
from torch import nn

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def obstacle(root: nn.Module) -> str | None:
    """Why ``root`` must not be run again by this process alone; None if nothing speaks against it.

    Found before anything runs: a collective that is begun and not ended would leave the process
    group in disorder.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    if torch.distributed.get_world_size() == 1:
        return None
    for module in root.modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds.intersection(_SHARDED):
            return "its parameters are sharded over ranks (FSDP), and a forward gathers them"
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            return "a SyncBatchNorm exchanges statistics with the other ranks"
    if any(hasattr(parameter, "to_local") for parameter in root.parameters()):
        return "its parameters are distributed tensors"
    return None
