"""Trains MobileNet as the seed recipes did: Keras' generators and `model.fit`.

It imports nothing of tfpipe. Pillow reads the images from files, all is float32, and the frozen
layers run again in every epoch.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

SPLITS = ("train", "val")
HEAD = "head"


class SeedRecipe(NamedTuple):
    """What both sides train; see the arguments of `train`."""

    optimizer: str
    learning_rate: float
    batch_size: int
    stages: tuple[str, ...] = (HEAD,)
    augment: bool = False
    bottleneck: bool = False
    target: float | None = None  # least of the seed's time, divided by tfpipe's


RECIPES = {
    "r1-frozen": SeedRecipe("Adam", 1e-3, 50, target=10.0),
    "r2": SeedRecipe("Adadelta", 1.0, 128, bottleneck=True),
    # MobileNet has 13 blocks; R3 cut Xception, which has 14, at 13 and at 11.
    "r3-staged": SeedRecipe("Adam", 1e-4, 32, (HEAD, "conv_pw_12", "conv_pw_10"), True, target=2.0),
}


def train(
    folder: str, weights: str, image_size: int, stages: Sequence[str], optimizer: str,
    learning_rate: float, batch_size: int, epochs: int, seed: int, workers: int,
    augment: bool = False, bottleneck: bool = False,
) -> dict:  # fmt: skip
    """Train on images SPLIT/CLASS/IMAGE; print `val_loss=VALUE` after each epoch of all stages.

    `stages` are the first layers that each trains, "head" for none of the backbone. `augment` does
    it as R3 did; `bottleneck` computes the features once and stores them, as R2 did.
    """
    import tf_keras as keras

    keras.utils.set_random_seed(seed)
    shape, weights = (image_size, image_size, 3), None if weights == "none" else weights
    base = keras.applications.MobileNet(input_shape=shape, include_top=False, weights=weights)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)

    def images(split: str, *, shuffle: bool = True) -> Any:
        changes = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}
        generator = keras.preprocessing.image.ImageDataGenerator(
            preprocessing_function=keras.applications.mobilenet.preprocess_input,
            **(changes if augment and split == "train" else {}),
        )
        return generator.flow_from_directory(
            str(pathlib.Path(folder, split)), target_size=(image_size, image_size),
            batch_size=batch_size, class_mode="binary", shuffle=shuffle, seed=seed,
        )  # fmt: skip

    def output(vector: Any) -> Any:
        dropped = keras.layers.Dropout(0.5)(vector)
        return keras.layers.Dense(1, activation="sigmoid")(dropped)

    def fit(model: Any, best: pathlib.Path, *inputs: Any, **options: Any) -> None:
        def report(_: int, logs: dict) -> None:
            print(f"val_loss={logs['val_loss']}", flush=True)

        rule = getattr(keras.optimizers, optimizer)(learning_rate)
        model.compile(rule, loss="binary_crossentropy", metrics=["accuracy"])
        callbacks = [
            keras.callbacks.ModelCheckpoint(str(best), save_best_only=True, save_weights_only=True),
            keras.callbacks.LambdaCallback(on_epoch_end=report),
        ]
        model.fit(*inputs, epochs=epochs, callbacks=callbacks, verbose=0, **options)

    def from_files(best: pathlib.Path) -> None:
        """Train each stage from the best epoch of the one before."""
        batches = images("train")
        model = keras.Model(base.input, output(pooled))
        names = [layer.name for layer in base.layers]
        for index, start in enumerate(stages):
            if index:
                model.load_weights(best)
            first = len(names) if start == HEAD else names.index(start)
            for number, layer in enumerate(base.layers):
                layer.trainable = number >= first
            fit(model, best, batches, validation_data=images("val"), workers=workers)

    def from_features(best: pathlib.Path) -> None:
        """Compute and store the features, and train a head on them."""
        import h5py

        extractor, path = keras.Model(base.input, pooled), best.with_name("features.h5")
        with h5py.File(path, "w") as file:
            for split in SPLITS:
                batches = images(split, shuffle=False)
                file[split] = extractor.predict(batches, workers=workers, verbose=0)
                file[f"{split}_labels"] = batches.classes
        with h5py.File(path) as file:
            x, y, *val = (file[f"{split}{kind}"][:] for split in SPLITS for kind in ("", "_labels"))
        vector = keras.Input(x.shape[1:])
        model = keras.Model(vector, output(vector))
        fit(model, best, x, y, validation_data=tuple(val), batch_size=batch_size)

    with tempfile.TemporaryDirectory() as work:
        (from_features if bottleneck else from_files)(pathlib.Path(work, "best.weights.h5"))
    return {}
