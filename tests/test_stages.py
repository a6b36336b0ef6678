"""`--stages`: what is trained, one after the other."""

import pytest

from tests.refusals import refused
from tfpipe.training import stages
from tfpipe.training.train_config import TrainConfig


def parse(text, **changes):
    return stages.parse(TrainConfig(records="r", run_dir="d", stages=text, **changes))


def test_a_stage_has_its_own_options_and_the_flags_for_the_rest():
    found = parse(
        " head:epochs=5,lr=1e-3,patience=3; top2:from=block13,lr=1e-4,schedule=step(2,0.1);"
        "all:from=a/b+c,augment=one_of(crop(0.9)|rotate(20,0.5))|flip_lr,backbone_lr=1e-6",
        epochs=7,
        optimizer="momentum",
    )
    assert [(s.index, s.name, s.start, s.label) for s in found] == [
        (0, "head", "head", "1-head"),
        (1, "top2", "block13", "2-top2"),
        (2, "all", "a/b+c", "3-all"),
    ]
    first, second, third = (stage.config for stage in found)
    assert (first.epochs, first.learning_rate, first.patience) == (5, 1e-3, 3)
    assert (second.epochs, second.learning_rate, second.schedule) == (7, 1e-4, "step(2,0.1)")
    assert third.augment == "one_of(crop(0.9)|rotate(20,0.5))|flip_lr"
    assert float(third.backbone_learning_rate) == 1e-6
    assert {stage.config.optimizer for stage in found} == {"momentum"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("augment", "maybe(0.5,noise(0.02))"),
        ("augment", "one_of(maybe(0.5,blur)|rotate(20,0.5),crop(0.9))|flip_lr"),
        ("optimizer", "sgd(momentum=0.9,nesterov)"),
        ("schedule", "cosine_restarts(2,1.5,min=0.1)"),
    ],
)
def test_commas_in_brackets_belong_to_the_value(key, value):
    for text in (f"a:{key}={value},epochs=3", f"a:epochs=3,{key}={value};b:lr=1"):
        first = parse(text)[0].config
        assert getattr(first, key) == value
        assert first.epochs == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' does not begin with a name"),
        ("head;", "'' does not begin with a name"),
        ("a b:lr=1", "'a b:lr=1' does not begin with a name"),
        ("../up:lr=1", "does not begin with a name"),
        ("head:lr", "head: cannot take 'lr'"),
        ("head:rate=1", "head: cannot take 'rate=1'.*backbone_lr"),
        ("head:seed=1", "head: cannot take 'seed=1'"),
        ("head:lr=1,lr=2", "cannot take 'lr=2'"),
        ("head:from=", "cannot take 'from='"),
        ("head:lr=fast", "head:lr=fast is not a number"),
        ("head:lr=nan", "head:lr=nan is not a number"),
        ("head:warmup_epochs=inf", "head:warmup_epochs=inf is not a number"),
        ("head:epochs=1.5", "head:epochs=1.5 is not a whole number"),
        ("head:batch_norm=on", "head:batch_norm=on is not one of frozen, trained"),
        ("head;top:from=all;head", "two stages are named head"),
    ],
)
def test_wrong_stages_are_explained(text, message):
    with refused(message):
        parse(text)
