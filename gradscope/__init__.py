"""gradscope says where and why a PyTorch model's gradients go wrong, and what to change."""

from __future__ import annotations

__version__ = "0.1.0"
