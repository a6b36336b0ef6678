"""Steps that are timed, and the precision that follows from their times."""

import pytest
import tf_keras

from tfpipe.model import classifier
from tfpipe.training import runtime, trial
from tfpipe.training.precision import under

AMX = frozenset({"avx2", "avx512_bf16", "amx_bf16"})


def build(classes=2, name="small_cnn"):
    branch = classifier.BackboneConfig(name, 32, "none")
    return classifier.build([branch], classes, pooling="avg", head="dropout(0.5)", output="auto")


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"float32": 1.0, "mixed_bfloat16": 0.5}, "mixed_bfloat16"),
        ({"float32": 1.0, "mixed_bfloat16": 0.9}, "mixed_bfloat16"),
        ({"float32": 1.0, "mixed_bfloat16": 0.91}, "float32"),
        ({"float32": 1.0, "mixed_bfloat16": 1.0}, "float32"),
        ({"float32": 1.0, "mixed_bfloat16": 30.0}, "float32"),
        ({"float32": 1.0, "mixed_bfloat16": 0.8, "mixed_float16": 0.7}, "mixed_float16"),
        ({"float32": 2.0}, "float32"),
    ],
)
def test_less_precision_must_be_clearly_faster(times, chosen):
    assert runtime.faster(times) == chosen


@pytest.mark.parametrize(
    ("precision", "capability", "features", "measure"),
    [
        ("auto", None, AMX, True),
        ("auto", None, frozenset({"avx512_bf16"}), True),
        ("auto", None, frozenset({"avx2"}), False),
        ("auto", None, frozenset(), False),
        ("auto", (7, 0), AMX, False),
        ("auto", (9, 0), frozenset(), False),
        ("float32", None, AMX, False),
        ("mixed_bfloat16", None, AMX, False),
    ],
)
def test_only_a_cpu_with_bfloat16_is_measured(precision, capability, features, measure):
    assert runtime.decide(precision, "auto", capability, "it", features).measure == measure


@pytest.mark.parametrize(("bfloat16", "expected"), [(5.0, "mixed_bfloat16"), (9.5, "float32")])
def test_the_faster_one_is_taken_and_its_times_are_said(bfloat16, expected, monkeypatch):
    ms = {"float32": 10.0, "mixed_bfloat16": bfloat16}
    asked = []
    monkeypatch.setattr(
        trial,
        "medians",
        lambda steps, rounds: {name: ms[step()] / 1000 for name, step in steps.items()},
    )

    def step_of(policy):
        asked.append(policy)
        return lambda: policy

    guess = runtime.decide("auto", "auto", None, "CPU", AMX)
    final = runtime.measured(guess, step_of)
    assert asked == ["float32", "mixed_bfloat16"]
    assert (final.precision, final.measure, final.xla) == (expected, False, False)
    assert f"float32 10.0 ms, mixed_bfloat16 {bfloat16:.1f} ms" in final.explanation
    assert "\n" not in final.explanation


@pytest.mark.parametrize("stage", trial.stages)
def test_a_real_measurement(stage):
    before = tf_keras.mixed_precision.global_policy().name
    built = []

    def step_of(policy):
        def record():
            built.append(tf_keras.mixed_precision.global_policy().name)
            return build()

        return trial.make(record, stage, 2, policy=policy, xla=False)

    final = runtime.measured(runtime.decide("auto", "auto", None, "CPU", AMX), step_of)
    assert built == list(runtime.CANDIDATES)
    assert final.precision in runtime.CANDIDATES
    assert not final.measure
    assert tf_keras.mixed_precision.global_policy().name == before


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("stage", "changed"), [("features", set()), ("head", {"logits"}), ("all", {"conv1", "logits"})]
)
def test_a_stage_trains_what_it_says(stage, changed, classes):
    model = build(classes)
    parts = [model.features.get_layer("small_cnn").get_layer("conv1"), model.head.layers[-1]]
    first = {layer.name: layer.kernel.numpy() for layer in parts}
    step = trial.make(lambda: model, stage, 4, policy="float32", xla=False)
    for _ in range(3):
        step()
    found = {layer.name for layer in parts if (layer.kernel.numpy() != first[layer.name]).any()}
    assert found == changed


@pytest.mark.parametrize("stage", trial.stages)
def test_a_step_can_be_compiled(stage):
    step = trial.make(build, stage, 2, policy="float32", xla=True)
    step()


def test_steps_take_turns():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = trial.medians(steps, warm_up=1, rounds=3)
    assert calls == list("ab" * 4)
    assert list(times) == ["a", "b"]
    assert all(value > 0 for value in times.values())


def test_rounds_end_when_the_time_is_over():
    calls = []
    trial.medians({"a": lambda: calls.append(1)}, warm_up=2, rounds=100, limit=0)
    assert len(calls) == 3


def test_an_error_leaves_the_policy_as_it_was():
    with pytest.raises(ZeroDivisionError), under("mixed_bfloat16"):
        raise ZeroDivisionError
    assert tf_keras.mixed_precision.global_policy().name == "float32"
