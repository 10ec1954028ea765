"""Run a frozen module as fast as the machine can: OpenVINO on CPU, torch elsewhere.

    float32 or uint8 pixels (n,3,H,W) --FrozenEngine.run--> float32 activations

The engine is a snapshot: weights that change afterwards do not change it. It is compared with plain
float32 torch on a probe batch when it is made, and says in `reason` why it is not the fast one.

Measured on 2 cores of a Zen 4 CPU with EfficientNet-Lite0 at 224 px and global pooling, images/s:
OpenVINO bf16 600 in batches of 32, torch bf16 channels-last 190, plain torch 30.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.jit._trace import TracerWarning

from medgraft.models.backbone import eval_mode

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Float32Array = npt.NDArray[np.float32]

BATCH = 32
# Relative L2 distance to float32 torch on the probe batch above which an engine is not used. Bfloat16 has 8 bits:
# on photographs and X-rays through EfficientNet-Lite0, OpenVINO differs by 0.03-0.06 and torch's autocast by 0.04-0.07.
TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1, "float16": 1e-2}


class FrozenEngine:
    """A frozen module on the fastest engine that gives the same numbers.

    Args:
        module: (n, 3, H, W) pixels on the 0..255 scale to one tensor with n rows, such as
            `medgraft.models.cut.Prefix`; it is not changed.
        example_size: (H, W) of every image to come.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        precision: ``auto`` takes bfloat16 where the machine computes in it, float16 on MPS, else float32;
            ``float16`` on a CPU is ``auto``.

    Attributes:
        engine: ``openvino`` or ``torch``.
        precision: what is computed in.
        reason: why the engine is torch on a CPU; empty otherwise.
        deviation: relative L2 distance to float32 torch on the probe batch; None on torch without
            reduced precision.
    """

    def __init__(
        self, module: nn.Module, example_size: tuple[int, int], *, device: str = "cpu", precision: Precision = "auto"
    ) -> None:
        self.size = example_size
        self.device = torch.device(device)
        self.engine: Literal["openvino", "torch"] = "torch"
        self.reason = ""
        self.deviation: float | None = None
        self._compiled: Any = None
        self._module: nn.Module | None = None
        if self.device.type == "cpu" and precision == "float16":
            precision = "auto"  # CPUs compute float16 far slower than float32
        if self.device.type == "cpu":
            self.precision: str = precision
            self._try_openvino(module, precision)
        if self._compiled is None:
            self.precision = _torch_precision(self.device, precision)
            self._module = copy.deepcopy(module).to(self.device).eval().to(memory_format=torch.channels_last)

    def run(self, pixels: npt.NDArray[np.uint8] | Float32Array) -> Float32Array:
        """Activations of (n, 3, H, W) uint8 or float32 pixels, n >= 0, in order; a fresh float32 array.

        Works in batches of 32; a smaller rest is filled up to a power of two, so the result of an image
        depends at most on the size of its batch and never on the images beside it.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or tuple(pixels.shape[2:]) != tuple(self.size):
            raise ValueError(f"pixels must be (n, 3, {self.size[0]}, {self.size[1]}), got {pixels.shape}")
        if len(pixels) == 0:
            return self._forward(np.zeros((1, 3, *self.size), dtype=np.uint8))[:0]
        parts = [self._forward(_filled(batch))[: len(batch)] for batch in _batches(pixels)]
        return np.concatenate(parts)

    def _forward(self, batch: npt.NDArray[np.uint8] | Float32Array) -> Float32Array:
        if self._compiled is not None:
            out = self._compiled(np.ascontiguousarray(batch, dtype=np.float32))[0]
            return np.array(out, dtype=np.float32)  # a copy: the engine reuses its output memory
        assert self._module is not None
        x = torch.from_numpy(np.ascontiguousarray(batch)).to(self.device).contiguous(memory_format=torch.channels_last)
        dtype = getattr(torch, self.precision)
        reduced = self.precision != "float32"
        with torch.no_grad(), torch.autocast(self.device.type, dtype=dtype if reduced else None, enabled=reduced):
            out = self._module(x.float())
        return cast(Float32Array, out.float().cpu().numpy())

    def _try_openvino(self, module: nn.Module, precision: Precision) -> None:
        try:
            openvino, core = _import_openvino(), _core()
            if precision == "auto":
                native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
                self.precision = "bfloat16" if native else "float32"
            self._compiled = _compile(openvino, core, module, self.size, self.precision)
            probe = _probe(self.size)
            found = self._forward(probe)
        except Exception as error:  # whatever a converter stumbles over, torch can do the work
            self._compiled = None
            self.reason = f"OpenVINO could not take the module: {_first_line(error)}"
            return
        with torch.no_grad(), eval_mode(module):
            expected = module(torch.from_numpy(probe)).float().numpy()
        self.deviation = _distance(found, expected)
        if not self.deviation <= TOLERANCE[self.precision]:
            self._compiled = None
            self.reason = f"OpenVINO's result differs from torch's by {self.deviation:.2g} on a probe batch"
            return
        self.engine = "openvino"


def _compile(openvino: Any, core: Any, module: nn.Module, size: tuple[int, int], precision: str) -> Any:
    # no_grad, not inference_mode: the converter records parameters, which inference tensors refuse.
    with torch.no_grad(), eval_mode(module), _quiet_conversion():
        model = openvino.convert_model(module, example_input=torch.zeros(2, 3, *size))
    model.reshape([-1, 3, *size])
    return core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",  # whole batches one after the other; measured no slower than streams
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )


@cache
def _core() -> Any:
    """One for the process, never destroyed.

    The CPU plugin of OpenVINO 2026.4 gives the thread that loads it a signal stack, and restores the one it found when
    it is destroyed. Of two that do not end in the opposite order of their beginning, the second restores what the
    first has freed, and the next signal (Ctrl-C, SIGTERM) kills the process.
    """
    return _import_openvino().Core()


def _import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which would write an identifier to the home folder and open sockets."""
    missing = object()
    before = sys.modules.get("openvino_telemetry", missing)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail: OpenVINO then uses its stub
    try:
        import openvino
    finally:
        if before is missing:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = cast(ModuleType, before)
    return cast(ModuleType, openvino)


@contextmanager
def _quiet_conversion() -> Iterator[None]:
    with warnings.catch_warnings():
        # OpenVINO's converter traces with torch.jit, which torch announces to retire; shapes become constants,
        # which is meant: the size is fixed.
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        yield


def _torch_precision(device: torch.device, precision: Precision) -> str:
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if device.type == "mps":
        return "float16"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def _probe(size: tuple[int, int]) -> Float32Array:
    """Two images with structure at several scales; noise alone leaves deep features near constant."""
    y, x = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    planes = [127.5 + 127.5 * np.sin(2 * np.pi * (a * x + b * y * y)) for a, b in ((1, 2), (3, 1), (7, 5))]
    image = np.stack(planes)
    noise = np.random.default_rng(0).uniform(-20, 20, image.shape)
    return np.stack([image, np.clip(image[::-1] + noise, 0, 255)]).astype(np.float32)


def _distance(found: Float32Array, expected: Float32Array) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-12))


def _batches(pixels: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(pixels), BATCH):
        yield pixels[start : start + BATCH]


def _filled(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    n = 1 << (len(batch) - 1).bit_length()
    if n == len(batch):
        return batch
    return np.concatenate([batch, np.repeat(batch[-1:], n - len(batch), axis=0)])


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:200]}" if lines else type(error).__name__
