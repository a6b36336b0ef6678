"""A program that uses the API; mypy checks that its editor would know the types."""

import pathlib

import numpy as np
from typing_extensions import assert_type

import tfpipe


def program(folder: pathlib.Path) -> None:
    """Uses every function of the API."""
    data = tfpipe.build([folder / "a.zip", "b"], folder / "records", splits="train:0.8,val:0.2")
    assert_type(data, tfpipe.Records)
    assert_type(tfpipe.load_records(folder), tfpipe.Records)
    assert_type(data.class_names, tuple[str, ...])
    assert_type(data.splits["train"].num_examples, int)
    assert_type(data.class_weights("train"), dict[int, float])
    data.as_dataset("train[:10%]", image_size=224, batch_size=32, shuffle=True, seed=0)
    run = tfpipe.fit(data, "runs/pets", epochs=1, callbacks=[])
    assert_type(run, tfpipe.Run)
    assert_type(tfpipe.load_run("runs/pets"), tfpipe.Run)
    assert_type(run.evaluate(split="val"), tfpipe.EvaluatedRun)
    assert_type(run.evaluate(data).interval("accuracy"), tuple[float, float] | None)
    for row in run.predict(["a.jpg", np.zeros([8, 8, 3], np.uint8)]):
        assert_type(row, tfpipe.PredictedImage)
        assert_type(row.label, str | None)
        assert_type(row.probabilities, dict[str, float])
    assert_type(run.export("export/pets", require="log_loss<0.06"), pathlib.Path)
    try:
        data.as_dataset("train", image_size=0)
    except tfpipe.UserError as error:
        assert_type(error.status, int)
