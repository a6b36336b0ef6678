"""The policy of precision and XLA, and the optimizers."""

import numpy as np
import pytest
import tensorflow as tf

from tfpipe.core.errors import UserError
from tfpipe.training import optimizers, runtime

AMX = frozenset({"avx2", "avx512_bf16", "amx_bf16"})
PLAIN = frozenset({"avx2", "avx512f"})


@pytest.mark.parametrize(
    ("capability", "features", "precision", "xla", "reason"),
    [
        (None, PLAIN, "float32", False, "no bfloat16 instructions"),
        (None, AMX, "mixed_bfloat16", False, "amx_bf16"),
        (None, frozenset({"avx512_bf16"}), "mixed_bfloat16", False, "avx512_bf16"),
        (None, frozenset(), "float32", False, "no bfloat16 instructions"),
        ((6, 1), frozenset(), "float32", True, "compute capability 6.1"),
        ((7, 0), frozenset(), "mixed_float16", True, "compute capability 7.0"),
        ((7, 5), frozenset(), "mixed_float16", True, "compute capability 7.5"),
        ((8, 0), frozenset(), "mixed_bfloat16", True, "compute capability 8.0"),
        ((9, 0), frozenset(), "mixed_bfloat16", True, "compute capability 9.0"),
        ((12, 0), frozenset(), "mixed_bfloat16", True, "compute capability 12.0"),
    ],
)
def test_auto_follows_the_device(capability, features, precision, xla, reason):
    chosen = runtime.decide("auto", "auto", capability, "it", features)
    assert (chosen.precision, chosen.xla) == (precision, xla)
    assert reason in chosen.explanation
    assert "\n" not in chosen.explanation


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("xla", ["on", "off"])
def test_what_is_asked_for_is_done(precision, xla):
    chosen = runtime.decide(precision, xla, None, "CPU", PLAIN)
    assert (chosen.precision, chosen.xla) == (precision, xla == "on")
    assert chosen.explanation.count("asked for") == 2


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(UserError, match="--precision=mixed_float16 needs a GPU"):
        runtime.decide("mixed_float16", "auto", None, "CPU", PLAIN)


def test_this_machine_gets_a_choice():
    assert runtime.choose("auto", "auto").precision in (
        "float32",
        "mixed_bfloat16",
        "mixed_float16",
    )


@pytest.mark.parametrize("name", optimizers.optimizers)
def test_every_optimizer_goes_downhill_in_a_graph(name):
    """Two variables: Keras' own Nadam goes wrong with the second one in a compiled step."""
    variables = [tf.Variable([1.0, -2.0]), tf.Variable([[3.0]])]
    optimizer = optimizers.build(name, 0.05)
    if hasattr(optimizer, "build"):
        optimizer.build(variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(v**2) for v in variables])
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step()) for _ in range(30)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["adam", "nadam", "momentum", "lamb"])
def test_in_a_graph_an_optimizer_does_what_it_does_eagerly(name):
    results = []
    for wrap in (lambda f: f, tf.function):
        variables = [tf.Variable([1.0, -2.0]), tf.Variable([[3.0]])]
        optimizer = optimizers.build(name, 0.05)
        if hasattr(optimizer, "build"):
            optimizer.build(variables)

        def step(variables=variables, optimizer=optimizer):
            optimizer.apply_gradients([(2 * v, v) for v in variables])

        run = wrap(step)
        for _ in range(5):
            run()
        results.append(np.concatenate([v.numpy().ravel() for v in variables]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


def test_wrong_optimizers_are_explained():
    with pytest.raises(UserError, match=r"unknown optimizer 'adamw'.*known: adadelta"):
        optimizers.build("adamw", 0.1)
    with pytest.raises(UserError, match="--learning_rate=0 is not above 0"):
        optimizers.build("adam", 0.0)
