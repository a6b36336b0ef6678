"""Precision and compiler of a training, chosen by the device."""

import dataclasses
import pathlib
import re

import tensorflow as tf

from tfpipe.core.errors import UserError

# CPU features, by Linux's names, with which oneDNN has fast bfloat16 kernels. Without them bfloat16
# is emulated, many times slower than float32.
_CPU_BF16 = ("amx_bf16", "avx512_bf16")

# Lowest compute capability whose tensor cores multiply the type (NVIDIA's CUDA programming guide,
# table of arithmetic throughput).
_GPU_BF16 = (8, 0)
_GPU_FP16 = (7, 0)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The choice for one run.

    Attributes:
        precision: Keras policy: float32, mixed_bfloat16 or mixed_float16.
        xla: whether XLA compiles the training step.
        explanation: one line for the log.
    """

    precision: str
    xla: bool
    explanation: str


def choose(precision: str, xla: str, begun: str = "", *, head_only: bool = False) -> Runtime:
    """Choose for the first GPU, or for the CPU if there is none; see `decide`."""
    asked = {"begun": begun, "head_only": head_only}
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return decide(precision, xla, None, "CPU", cpu_features(), **asked)
    details = tf.config.experimental.get_device_details(gpus[0])
    capability = details.get("compute_capability", (0, 0))
    name = details.get("device_name", "GPU")
    return decide(precision, xla, capability, name, frozenset(), **asked)


def decide(
    precision: str,
    xla: str,
    capability: tuple[int, int] | None,
    device: str,
    features: frozenset[str],
    begun: str = "",
    head_only: bool = False,
) -> Runtime:
    """Choose from plain values.

    A head on frozen layers is trained in float32, as it is served: half precision gains only in the
    one pass through the frozen layers, and the head would fit features with other rounding errors
    (docs/training.md has the losses).

    On two CPU cores with AMX, bfloat16 makes the training of ResNet50 1.3 x and its inference
    2.1 x faster, and XLA makes MobileNet's inference 28 x slower.

    Args:
        precision: "auto" or a Keras policy.
        xla: "auto", "on" or "off".
        capability: compute capability of the GPU, None for a CPU.
        device: name for the explanation.
        features: instruction-set extensions of the CPU.
        begun: precision of the run that is resumed, which any CPU keeps; "" for a new run.
        head_only: whether no layer of a backbone is trained.

    Raises:
        UserError: mixed_float16 on a CPU, which TensorFlow has no fast kernels for.
    """
    on_gpu = capability is not None
    if precision == "mixed_float16" and not on_gpu:
        raise UserError(
            "`precision=mixed_float16` needs a GPU, and TensorFlow sees none: give auto, float32 or"
            " mixed_bfloat16"
        )
    if precision != "auto":
        why = "asked for"
    elif not on_gpu and begun in ("float32", "mixed_bfloat16"):
        precision, why = begun, "as the run began"
    elif head_only:
        precision, why = "float32", "only a head is trained"
    elif on_gpu:
        why = f"compute capability {'.'.join(map(str, capability))}"
        bfloat16, float16 = capability >= _GPU_BF16, capability >= _GPU_FP16
        precision = "mixed_bfloat16" if bfloat16 else "mixed_float16" if float16 else "float32"
    else:
        found = [name for name in _CPU_BF16 if name in features]
        precision = "mixed_bfloat16" if found else "float32"
        why = f"this CPU has {found[0]}" if found else "this CPU has no bfloat16 instructions"
    why_xla = "asked for"
    if xla == "auto":
        xla, why_xla = ("on", "faster on a GPU") if on_gpu else ("off", "slower on a CPU")
    explanation = f"device {device}; precision {precision} ({why}); XLA {xla} ({why_xla})"
    return Runtime(precision, xla == "on", explanation)


def cpu_features() -> frozenset[str]:
    """Return the CPU's instruction-set extensions by Linux's names; empty on other systems."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    match = re.search(r"^flags\s*:(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()
