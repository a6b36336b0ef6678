"""Trains as the seed recipes did, in a process of its own: Keras' generators and `model.fit`.

`tools/bench_train.py` calls it with `python -m`. It imports nothing of tfpipe: images are read by
Pillow from files, with Keras' defaults, in float32, and the frozen layers run again in every epoch.
The backbone is MobileNet. After each epoch a line of JSON is printed, with its `val_loss`.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from typing import Any

import h5py

HEAD = "head"
NO_WEIGHTS = "none"
SPLITS = ("train", "val")


def main(argv: list[str]) -> None:
    """Trains, and prints the validation loss of each epoch of all stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="SPLIT/CLASS/IMAGE")
    parser.add_argument("--weights", required=True, help="a file of MobileNet's, or none")
    parser.add_argument("--epochs", required=True, type=int, help="of each stage")
    parser.add_argument("--optimizer", required=True, help="its class in Keras")
    parser.add_argument("--learning_rate", required=True, type=float)
    parser.add_argument("--batch_size", required=True, type=int)
    parser.add_argument("--stages", default=HEAD, help="the first layer that each trains, by comma")
    parser.add_argument("--augment", action="store_true", help="as R3 did")
    parser.add_argument("--bottleneck", action="store_true", help="compute the features once")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=1, help="threads of Keras' generators")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    import tf_keras

    tf_keras.utils.set_random_seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        Training(tf_keras, arguments, pathlib.Path(folder)).run()


class Training:
    """One training, with a folder for its temporary files."""

    def __init__(self, tf_keras: Any, arguments: argparse.Namespace, folder: pathlib.Path):
        """Builds the backbone."""
        self._keras = tf_keras
        self._arguments = arguments
        self._features, self._best = folder / "features.h5", folder / "best.weights.h5"
        side, weights = arguments.image_size, arguments.weights
        self._base = tf_keras.applications.MobileNet(
            input_shape=(side, side, 3),
            include_top=False,
            weights=None if weights == NO_WEIGHTS else weights,
        )
        self._pooled = tf_keras.layers.GlobalAveragePooling2D()(self._base.output)

    def run(self) -> None:
        """Trains, and prints a line for each epoch."""
        if self._arguments.bottleneck:
            self._from_features()
        else:
            self._from_files()

    def _from_files(self) -> None:
        """Each stage starts from the best epoch of the one before, as in R3."""
        train, val = (self._images(split) for split in SPLITS)
        model = self._keras.Model(self._base.input, self._output(self._pooled))
        layers = self._base.layers
        names = [layer.name for layer in layers]
        for index, start in enumerate(self._arguments.stages.split(",")):
            if index:
                model.load_weights(self._best)
            first = len(layers) if start == HEAD else names.index(start)
            for number, layer in enumerate(layers):
                layer.trainable = number >= first
            self._fit(model, train, validation_data=val, workers=self._arguments.workers)

    def _from_features(self) -> None:
        """The features are computed and stored, and a head is trained on them, as in R2."""
        extractor = self._keras.Model(self._base.input, self._pooled)
        with h5py.File(self._features, "w") as file:
            for split in SPLITS:
                images = self._images(split, shuffle=False)
                # It was `predict_generator`, which Keras has merged into this.
                values = extractor.predict(images, workers=self._arguments.workers, verbose=0)
                file[split], file[f"{split}_labels"] = values, images.classes
        with h5py.File(self._features) as file:
            x, y, *val = (file[f"{split}{kind}"][:] for split in SPLITS for kind in ("", "_labels"))
        vector = self._keras.Input(x.shape[1:])
        model = self._keras.Model(vector, self._output(vector))
        self._fit(model, x, y, validation_data=tuple(val), batch_size=self._arguments.batch_size)

    def _fit(self, model: Any, *data: Any, **options: Any) -> None:
        optimizer = getattr(self._keras.optimizers, self._arguments.optimizer)
        model.compile(
            optimizer(self._arguments.learning_rate),
            loss="binary_crossentropy",
            metrics=["accuracy"],
        )
        callbacks = self._keras.callbacks
        keep = callbacks.ModelCheckpoint(
            str(self._best), save_best_only=True, save_weights_only=True
        )
        model.fit(
            *data,
            epochs=self._arguments.epochs,
            callbacks=[keep, callbacks.LambdaCallback(on_epoch_end=_tell)],
            verbose=0,
            **options,
        )

    def _images(self, split: str, *, shuffle: bool = True) -> Any:
        """Returns Keras' batches of a split; only those to train on are augmented."""
        changes = {"shear_range": 0.2, "zoom_range": 0.2, "horizontal_flip": True}
        generator = self._keras.preprocessing.image.ImageDataGenerator(
            preprocessing_function=self._keras.applications.mobilenet.preprocess_input,
            **(changes if self._arguments.augment and split == SPLITS[0] else {}),
        )
        return generator.flow_from_directory(
            str(self._arguments.folder / split),
            target_size=(self._arguments.image_size,) * 2,
            batch_size=self._arguments.batch_size,
            class_mode="binary",
            shuffle=shuffle,
            seed=self._arguments.seed,
        )

    def _output(self, vector: Any) -> Any:
        layers = self._keras.layers
        return layers.Dense(1, activation="sigmoid")(layers.Dropout(0.5)(vector))


def _tell(epoch: int, logs: dict[str, float]) -> None:
    print(json.dumps({"val_loss": float(logs["val_loss"])}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
