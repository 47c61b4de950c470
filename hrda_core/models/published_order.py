"""Two orders of the same operations: the published one, and one with less work (the default).

Both are the same function of the same weights, which only round differently. `precision="reference"` chooses the published
order; the goldens run in it, and speed is quoted against it.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def use_published_order(network: Module, published: bool = True) -> Module:
    """Sets `published_order` on every part that knows two orders, and returns the network. Copies keep the setting.

    Parts that are `narrow` keep the published order in any case: there the other one costs more than it saves.
    """
    for module in network.modules():
        if hasattr(module, "published_order"):
            module.published_order = published or getattr(module, "narrow", False)  # type: ignore[assignment]
    return network


def keep_published_order(network: nn.Module) -> None:
    """Its parts are narrow."""
    for module in network.modules():
        if hasattr(module, "published_order"):
            module.narrow = module.published_order = True  # type: ignore[assignment]
