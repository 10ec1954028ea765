"""What the machine offers: device, threads, free disk, and what the backbone makes of it."""

from __future__ import annotations

import os
import shutil
from typing import Literal

import torch

from medgraft.config import Config
from medgraft.data.store import cache_folder
from medgraft.errors import ResourceError
from medgraft.models.classifier import Classifier
from medgraft.models.cut import trunk_behind_stride
from medgraft.training.plan import MachineFacts

Device = Literal["cpu", "cuda", "mps"]


def choose_device(asked: Literal["auto", "cpu", "cuda", "mps"]) -> tuple[Device, str]:
    """The device and why.

    Raises:
        ResourceError: DEVICE_MISSING when the one asked for is not there.
    """
    present: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if asked != "auto":
        if not present[asked]:
            raise ResourceError(
                "DEVICE_MISSING", f"there is no {asked} device here", where="training.device", fix="use auto or cpu"
            )
        return asked, "as asked"
    if present["cuda"]:
        return "cuda", f"found {torch.cuda.get_device_name()}"
    if present["mps"]:
        return "mps", "found an Apple GPU"
    return "cpu", "no GPU found"


def use_threads(asked: int | Literal["auto"]) -> int:
    """Set torch's CPU threads: as asked, or the cores this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = available if asked == "auto" else asked
    torch.set_num_threads(threads)
    return threads


def machine_facts(
    classifier: Classifier, device: Device, device_reason: str, threads: int, config: Config
) -> MachineFacts:
    """Facts for the planner."""
    folder = cache_folder(config.data.cache_dir)
    trunk, trunk_bytes = trunk_behind_stride(classifier)
    return MachineFacts(
        device=device,
        device_reason=device_reason,
        bfloat16=_native_bfloat16(device),
        threads=threads,
        free_bytes=shutil.disk_usage(folder).free,
        trunk=trunk,
        trunk_bytes=trunk_bytes,
    )


def _native_bfloat16(device: Device) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
