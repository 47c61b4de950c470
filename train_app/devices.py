"""The devices that a user chose for a training."""

from __future__ import annotations

from collections.abc import Sequence

from hrda_core import TrainConfig
from hrda_core.inference.predictor import choose_device
from train_app.errors import UserError


def check_devices(devices: Sequence[str]) -> str:
    """What the configuration calls them.

    Raises:
        UserError: they cannot train together, or this machine does not have one of them.
    """
    if len(devices) > 1 and "cpu" in devices:
        raise UserError(f"options.devices={list(devices)!r}: several must be different GPUs; take the CPU out, or the GPUs")
    try:
        for device in devices:
            choose_device(device)
    except ValueError as error:
        raise UserError(str(error)) from error
    return devices[0] if len(devices) == 1 else "cuda"


def check_batch(config: TrainConfig, devices: Sequence[str]) -> None:
    """Raises UserError where the batch cannot be shared out equally."""
    if config.optimisation.batch_size % len(devices):
        raise UserError(
            f"optimisation.batch_size={config.optimisation.batch_size}: is the batch of all {len(devices)} devices together; "
            f"use a multiple of {len(devices)}, or choose fewer devices"
        )
