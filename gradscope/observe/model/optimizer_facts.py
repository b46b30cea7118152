"""What is known of an optimizer, and when it has changed."""

from __future__ import annotations

from typing import Any


def signature_of(optimizer: Any) -> tuple[Any, ...]:
    """Changes with the parameters held; a lazy one changes its class when it gets its shape."""
    groups = [group["params"] for group in optimizer.param_groups]
    ends = tuple(type(p) for params in groups for p in (*params[:1], *params[-1:]))
    return tuple(hash(tuple(map(id, params))) for params in groups), ends


def facts_of(optimizer: Any) -> dict[str, Any]:
    """Type, learning rates, size and defaults of an optimizer, as JSON can hold them."""
    defaults = {
        name: value
        for name, value in getattr(optimizer, "defaults", {}).items()
        if isinstance(value, (bool, int, float, str)) or value is None
    }
    return {
        "type": type(optimizer).__name__,
        "lr": [float(group.get("lr", float("nan"))) for group in optimizer.param_groups],
        "parameters": sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
        "defaults": defaults,
    }
