"""Which precision and compiler a run uses on this machine, and why."""

import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.training import trial

# CPU features under which oneDNN has fast bfloat16 kernels, as Linux names them. Without them
# bfloat16 is emulated and many times slower than float32. With them it depends on the model, and on
# whether its BatchNorm is folded.
_CPU_BF16 = ("amx_bf16", "avx512_bf16")

# Compute capability from which a GPU multiplies that type in tensor cores (NVIDIA's CUDA
# programming guide, table of arithmetic throughput).
_GPU_BF16 = (8, 0)
_GPU_FP16 = (7, 0)


# What is measured where a CPU has them, the one of full precision first; how much less time another
# must take to be worth its rounding; and how many steps of each are timed, enough to tell
# apart what differs by more than the margin.
CANDIDATES = ("float32", "mixed_bfloat16")
MARGIN = 0.1
ROUNDS = 3

# Images through the backbone in a whole training, below which measuring takes longer than a wrong
# choice: 4 s for a MobileNet, of which one precision saves 1 to 2 ms an image.
MEASURED_FROM = 4000


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The choice for one run.

    Attributes:
        precision: Keras' name of the policy: float32, mixed_bfloat16 or mixed_float16.
        xla: whether the training step is compiled with XLA.
        device: its name.
        why: the reason for the precision.
        why_xla: the reason for `xla`.
        measure: whether the precision is only a guess, to be replaced by `measured`.
    """

    precision: str
    xla: bool
    device: str
    why: str
    why_xla: str
    measure: bool = False

    @property
    def explanation(self) -> str:
        """One line for the log: what was chosen and why."""
        return (
            f"device {self.device}; precision {self.precision} ({self.why}); XLA"
            f" {'on' if self.xla else 'off'} ({self.why_xla})"
        )


def choose(precision: str, xla: str) -> Runtime:
    """Chooses for the first GPU, or the CPU where there is none.

    On two CPU cores with AMX bfloat16 made ResNet50's training 1.3 x and its inference 2.1 x
    faster, and XLA made MobileNet's inference 28 x slower (TensorFlow 2.15.1). So a CPU with
    bfloat16 instructions is to be measured, with the model; see `measured`.

    Args:
        precision: "auto" or the name of a Keras policy.
        xla: "auto", "on" or "off".

    Raises:
        UserError: mixed_float16 on a CPU, where TensorFlow has no kernels worth using.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        return decide(precision, xla, capability, details.get("device_name", "GPU"), frozenset())
    return decide(precision, xla, None, "CPU", cpu_features())


def decide(
    precision: str,
    xla: str,
    capability: tuple[int, int] | None,
    device: str,
    features: frozenset[str],
) -> Runtime:
    """Decides from plain values; see `choose`.

    Args:
        precision: "auto" or the name of a Keras policy.
        xla: "auto", "on" or "off".
        capability: the GPU's compute capability, None for a CPU.
        device: its name for the explanation.
        features: the CPU's instruction-set extensions.
    """
    measure = False
    if precision != "auto":
        if precision == "mixed_float16" and capability is None:
            raise UserError(
                "--precision=mixed_float16 needs a GPU, and TensorFlow sees none: pass auto,"
                " float32 or mixed_bfloat16"
            )
        chosen, why = precision, "asked for"
    elif capability is None:
        has = [name for name in _CPU_BF16 if name in features]
        measure = bool(has)
        chosen = "mixed_bfloat16" if has else "float32"
        why = f"this CPU has {has[0]}" if has else "this CPU has no bfloat16 instructions"
    else:
        shown = ".".join(map(str, capability))
        why = f"compute capability {shown}"
        if capability >= _GPU_BF16:
            chosen = "mixed_bfloat16"
        elif capability >= _GPU_FP16:
            chosen = "mixed_float16"
        else:
            chosen = "float32"
    compiled = xla == "on" or (xla == "auto" and capability is not None)
    if xla != "auto":
        why_xla = "asked for"
    elif compiled:
        why_xla = "faster on a GPU"
    else:
        why_xla = "slower on a CPU"
    return Runtime(chosen, compiled, device, why, why_xla, measure)


def measured(chosen: Runtime, step_of: Callable[[str], trial.Step]) -> Runtime:
    """Replaces a guessed precision by the one whose steps take the least time here.

    To be called before `seed_everything` and before any model is built that is kept: the models
    measured take random numbers and names of layers.

    Args:
        chosen: what `choose` returned, with `measure`.
        step_of: from a Keras policy to a function that runs one step under it, as `trial.make`
            gives it.

    Returns:
        The choice, whose explanation has the times.
    """
    times = trial.medians({policy: step_of(policy) for policy in CANDIDATES}, rounds=ROUNDS)
    tf_keras.backend.clear_session()
    shown = ", ".join(f"{policy} {1000 * time:.1f} ms" for policy, time in times.items())
    why = f"{chosen.why}; a step takes {shown}"
    return dataclasses.replace(chosen, precision=faster(times), why=why, measure=False)


def faster(times: Mapping[str, float]) -> str:
    """Returns the first policy, or the fastest where that takes less time by `MARGIN` or more.

    Args:
        times: of a step by policy, all in the same unit, above 0.
    """
    first, best = next(iter(times)), min(times, key=times.__getitem__)
    return best if times[best] <= (1 - MARGIN) * times[first] else first


def seed_everything(seed: int) -> None:
    """Makes initial weights and dropout follow from `seed`.

    Dropout then draws from generators that can be saved (`random_state`), so that a resumed run
    goes on as if it had not been interrupted. Call this before a model is built.
    """
    tf_keras.backend.experimental.enable_tf_random_generator()
    tf_keras.utils.set_random_seed(seed)


def compile_quietly() -> None:
    """Compiles a first function with XLA, which says so once, at no level, on standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            tf.function(lambda x: x + 1, autograph=False, jit_compile=True)(tf.constant(0))
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def random_state(model: tf_keras.Model, seed: int, stage: int) -> list[tf.random.Generator]:
    """Seeds the generators of a model's random layers, and returns them for a checkpoint.

    Keras leaves them out of its own. Each stage begins anew, whatever ran in this process before.
    """
    generators = []
    for layer in model.submodules:
        random = getattr(layer, "_random_generator", None)
        # Random initialisers have one too, but it is spent once the weights are there.
        if isinstance(layer, tf_keras.layers.Layer) and random is not None:
            generators.append(random._generator)
    for index, generator in enumerate(generators):
        state = np.random.SeedSequence([seed, stage, index]).generate_state(3, np.uint64)
        generator.reset(state.astype(np.int64))
    return generators


def cpu_features() -> frozenset[str]:
    """Returns the CPU's instruction-set extensions as Linux names them; none known elsewhere."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    match = re.search(r"^flags\s*:(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()
