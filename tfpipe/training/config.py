"""The options of a training run, and what a run resolved them to."""

import dataclasses

from tfpipe.core.options import option


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Every option of `tfpipe.train`; a field is a flag of the same name."""

    records: str = option("folder that tfpipe.build_records wrote")
    run_dir: str = option("folder of this run: configuration, checkpoints and logs")
    backbones: str = option(
        "backbones whose features are joined, separated by commas: names of keras.applications"
        " models, small_cnn, or PATH.keras@LAYER, a model file that takes RGB in 0..255, cut at"
        " that layer",
        "mobilenet",
    )
    weights: str = option(
        "the backbones' first weights: imagenet (downloaded), none (random), or the path of a"
        " weights-only .h5 file without the top; for each backbone its own: name=VALUE,... A model"
        " file has its own",
        "imagenet",
    )
    image_size: str = option(
        "side of the backbones' input in pixels, 0 for what each was made for; for each backbone"
        " its own: name=SIDE,...",
        "0",
    )
    stages: str = option(
        "what is trained, one stage after the other, as NAME:KEY=VALUE,KEY=VALUE;NAME:...; `from`"
        " is where the trained part begins: head (the backbones are frozen), all, or a block or"
        " layer of a backbone (BACKBONE/LAYER where several have it, joined by + for several); the"
        " other keys are options for that stage: lr, backbone_lr, epochs, patience, optimizer,"
        " schedule, augment and more. A stage starts from the best epoch of the one before",
        "head",
    )
    batch_norm: str = option(
        "BatchNorm layers of the trained part of a backbone: keep their statistics and run as in"
        " inference, or are trained too",
        "frozen",
        ("frozen", "trained"),
    )
    pooling: str = option(
        "from a feature map to a vector: its average, its maximum, both, or all of it",
        "avg",
        ("avg", "max", "avg_max", "flatten"),
    )
    head: str = option(
        "layers between the features and the output, joined by |: dense(UNITS), dropout(RATE), and"
        " norm, which subtracts each feature's mean and divides by its standard deviation",
        "dropout(0.5)",
    )
    head_init: str = option(
        "first weights of the last layer: zeros begin at even odds, which a head on frozen layers"
        " is best trained from; glorot_uniform draws them as Keras does, and at a low learning rate"
        " fine-tuning gets on faster from there",
        "zeros",
        ("zeros", "glorot_uniform"),
    )
    output: str = option(
        "the last layer: one sigmoid, P(second class), or a softmax over all; auto is a sigmoid for"
        " two classes",
        "auto",
        ("auto", "sigmoid", "softmax"),
    )
    augment: str = option(
        "augmentation on the device, operations joined by |, as rotate(15)|zoom(0.9,1.1)|flip_lr,"
        " one_of(crop(0.9)|blur), maybe(0.5,noise(0.02)), randaugment(2,9), mixup(0.2);"
        " docs/input.md has them all, tools/preview_augment.py shows them; empty for none",
        "",
    )
    train_split: str = option("split of the records to train on", "train")
    val_split: str = option("split to validate on after each epoch", "val")
    folds: int = option(
        "cross-validate: a run on all but each of so many folds of the records' training and"
        " validation splits, validated on that one; 0 for one run on the splits",
        0,
    )
    fold: int = option("one run of a cross-validation, held out that fold; -1 for the splits", -1)
    epochs: int = option("how many times to go through the training records, at most", 10)
    patience: int = option("stop after this many epochs without a lower validation loss", 5)
    batch_size: int = option("records in a training step", 32)
    optimizer: str = option("its name, as sgd, momentum, rmsprop, adam or lamb", "adam")
    learning_rate: float = option("of the optimizer", 1e-3)
    backbone_learning_rate: float = option(
        "of the backbones' layers, where a stage trains them; 0 for the same as the head's", 0.0
    )
    schedule: str = option(
        "how the learning rate changes with each update: constant; cosine, to 0 over --epochs, or"
        " cosine(EPOCHS); step(EPOCHS,FACTOR), multiplied by it each time so many epochs are over;"
        " inverse_time(RATE), divided by 1 + RATE x epochs",
        "constant",
    )
    warmup_epochs: float = option(
        "epochs, or a fraction of one, in which the learning rate rises linearly from 0; the"
        " schedule runs meanwhile",
        0.0,
    )
    weight_decay: float = option(
        "share of each weight, times the learning rate, that each update takes off it (AdamW);"
        " 0 for none",
        0.0,
    )
    clip_norm: float = option(
        "largest norm of all gradients together; longer ones are shortened to it; 0 for any", 0.0
    )
    accumulate_steps: int = option(
        "steps whose mean gradients make one update of the weights, as a batch so many times larger"
        " would; the last update of an epoch takes the steps that are left",
        1,
    )
    average: str = option(
        "averages of the weights, validated and exported in their place: none; ema(DECAY), moving"
        " with every update; swa(EPOCH) or swa(EPOCH,EVERY), the mean of the weights after each"
        " EVERY epochs from that one on",
        "none",
    )
    loss: str = option(
        "what the training minimises: crossentropy, or focal, which hardly counts what is already"
        " right; val_loss is always the cross-entropy",
        "crossentropy",
    )
    label_smoothing: float = option(
        "share of each label that is spread evenly over all classes, 0 to 0.5", 0.0
    )
    focal_gamma: float = option(
        "of the focal loss: how little counts what is already right, from 0, not less", 2.0
    )
    class_weights: str = option(
        "what the images of a class count in the loss: none, all the same; balanced, each class the"
        " same; or NAME=W,NAME=W, where classes that are not named have 1",
        "none",
    )
    seed: int = option("of initial weights, order, augmentation and dropout", 0)
    shuffle_mb: int = option("size of the shuffle buffer, in MB of encoded images", 256)
    resize_on: str = option(
        "where training pictures get the model's size: on the host; or on the device, together with"
        " the augmentation, by one interpolation instead of two, and the host only decodes",
        "host",
        ("host", "device"),
    )
    cache: str = option(
        "what of the training images stays in memory: nothing, the files as stored, or decoded"
        " pixels; it is checked that it fits",
        "none",
        ("none", "encoded", "decoded"),
    )
    feature_views: int = option(
        "augmented views of each training image whose features are kept, so that the frozen layers"
        " run no more; epoch by epoch they take turns; 0 to augment each epoch anew",
        0,
    )
    feature_cache: str = option(
        "folder where the features of frozen layers are kept, which runs can share; empty for one"
        " in the run's folder",
        "",
    )
    feature_gb: float = option(
        "how much a stage may keep there, in 10^9 bytes; what does not fit is computed in each"
        " epoch",
        10.0,
    )
    deterministic: bool = option(
        "whether batches come in the same order in every run; each picture looks the same anyway",
        True,
    )
    decode_threads: int = option("threads that decode images, 0 for one on each core", 0)
    buffer_mb: int = option(
        "memory that the input's buffers may take, in MB; 0 for half of what is free", 0
    )
    data_service: str = option(
        "grpc://HOST:PORT of a dispatcher that tfpipe.data_service started, whose workers then read"
        " and decode the training records; empty to do so here",
        "",
    )
    checkpoint_minutes: float = option(
        "time between checkpoints within an epoch; there is one after each epoch anyway", 10.0
    )
    on_nan: str = option(
        "when the loss is no number: stop, or go back to the last checkpoint and on with half the"
        " learning rate",
        "stop",
        ("stop", "rewind"),
    )
    max_corrupt: int = option(
        "how many damaged records may be left out, which is then said; with more, nothing starts", 0
    )
    strategy: str = option(
        "devices and machines that share each batch: one_device; mirrored, all GPUs of this"
        " machine; multi_worker, the processes that TF_CONFIG names, with the same command; tpu;"
        " auto: multi_worker if TF_CONFIG names several, mirrored if there are several GPUs, else"
        " one_device",
        "auto",
    )
    profile: bool = option(
        "trace ten steps for TensorBoard, and say whether input or compute is the bottleneck", False
    )
    tta: str = option(
        "views that are classified besides the image itself, separated by commas, as flip_lr,"
        "crop(0.9): the mean of all logits counts wherever the trained model is used; empty for"
        " none",
        "",
    )
    calibration: str = option(
        "what makes the trained model's probabilities fit the validation split: temperature (one"
        " factor on the logits); platt (factor and shift; two classes); auto, the better of them in"
        " cross-validation, if one is; each with bounds that limit what one confident mistake"
        " costs. none leaves the probabilities as they are",
        "auto",
        ("auto", "none", "temperature", "platt"),
    )
    precision: str = option(
        "of the training's arithmetic; auto takes the fastest that is safe on the device."
        " Evaluation and export are always float32",
        "auto",
        ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    xla: str = option(
        "compile the training step with XLA; auto: on a GPU, not on a CPU",
        "auto",
        ("auto", "on", "off"),
    )
    describe: bool = option(
        "only show the model, block by block, with its parameters; nothing is trained or written,"
        " no weights are downloaded, and without records two classes are assumed",
        False,
    )


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a run made of its options; later commands read it and ask nothing twice.

    Attributes:
        classes: names in the order of their labels.
        class_shares: the share of each among the training records.
        branches: for each backbone its name, input side in pixels, and first weights.
        output: "sigmoid" or "softmax".
        records_fingerprint: of the records it was trained on.
        precision: Keras' name of the training's mixed-precision policy.
        xla: whether the training step is compiled.
    """

    classes: tuple[str, ...]
    class_shares: tuple[float, ...]
    branches: tuple[dict, ...]
    output: str
    records_fingerprint: str
    precision: str
    xla: bool

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class, by its name."""
        return dict(zip(self.classes, self.class_shares, strict=True))
