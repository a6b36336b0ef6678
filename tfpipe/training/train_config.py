"""Options of a training, as given and as resolved."""

import dataclasses

from tfpipe.core.options import option
from tfpipe.images import pixels
from tfpipe.records import label_set
from tfpipe.records.label_encoding import LabelEncoding

AUTO = "auto"  # a learning rate that a range test chooses


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Options of `tfpipe.train`; each field is a flag of the same name."""

    records: str = option(
        "folder that tfpipe build wrote; only --describe needs none",
        "",
        group="Data",
        common=True,
    )
    run_dir: str = option(
        "folder of this run: configuration, checkpoints and logs; only --describe needs none",
        "",
        common=True,
    )
    backbones: str = option(
        "backbones whose features are joined, separated by commas: names of keras.applications"
        " models, small_cnn, kecam:MODULE.MODEL of keras-cv-attention-models, or PATH.keras@LAYER,"
        " a model file that takes RGB in 0..255, cut at that layer",
        "mobilenet",
        group="Model",
        common=True,
    )
    weights: str = option(
        "first weights of the backbones: imagenet (downloaded), none (random), the path of a"
        " weights-only .h5 file without the top, or the folder of a run, whose head is taken too if"
        " it has the same classes; or one for each backbone: name=VALUE,... A model file has its"
        " own",
        "imagenet",
        common=True,
    )
    image_size: str = option(
        "side of the backbones' input in pixels, 0 for each backbone's own; or one for each:"
        " name=SIDE,...",
        "0",
    )
    stages: str = option(
        "stages of the training, as NAME:KEY=VALUE,KEY=VALUE;NAME:...; `from` is where the trained"
        " part begins: head (the backbones are frozen), all, or a block or layer of a backbone"
        " (BACKBONE/LAYER if several have it; join several by +); the other keys are options of"
        " that stage: lr, backbone_lr, epochs, patience, optimizer, schedule, augment and more. A"
        " stage starts from the best epoch of the stage before",
        "head",
        common=True,
    )
    batch_norm: str = option(
        "BatchNorm layers in the trained part of a backbone: frozen keeps their statistics and runs"
        " them as in inference; trained trains them too",
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
        " before these norm, which subtracts each feature's mean over the training images and"
        " divides by its standard deviation",
        "dropout(0.5)",
        common=True,
    )
    drop_path: float | None = option(
        "rate of stochastic depth in trained layers: the share of images that skip the last"
        " residual branch of a backbone, fewer in earlier ones; empty for the backbone's own",
        None,
        minimum=0,
        maximum=0.99,
    )
    head_init: str = option(
        "first weights of the last layer: zeros starts at even odds, best for a head on frozen"
        " layers; glorot_uniform draws them like Keras, which speeds up fine-tuning at a low rate",
        "zeros",
        ("zeros", "glorot_uniform"),
    )
    output: str = option(
        "the last layer: one sigmoid, P(second class), or a softmax over all; auto is a sigmoid for"
        " two classes. Where an image may have several classes, it is a sigmoid for each",
        "auto",
        ("auto", "sigmoid", "softmax"),
    )
    augment: str = option(
        "augmentation on the device, operations joined by |, as rotate(15)|zoom(0.9,1.1)|flip_lr,"
        " one_of(crop(0.9)|blur), maybe(0.5,noise(0.02)), randaugment(2,9), mixup(0.2);"
        " docs/input.md has them all, tools/preview_augment.py shows them; empty for none",
        "",
        common=True,
    )
    train_split: str = option("split of the records to train on", "train", group="Data")
    val_split: str = option("split to validate on after each epoch", "val")
    folds: int = option(
        "cross-validate with this number of folds of the records' training and validation splits:"
        " one run for each fold, trained on the others; 0 for one run on the splits",
        0,
    )
    fold: int = option("one run of a cross-validation, without this fold; -1 for the splits", -1)
    limit: int = option(
        "use at most this many records of each split, drawn by the seed with the classes' shares as"
        " they are; 0 for all",
        0,
        minimum=0,
    )
    epochs: int = option("most epochs", 10, group="Length", common=True)
    patience: int = option(
        "stop after this many epochs without a gain of `monitor`; 0 stops like 1, at the first",
        5,
        minimum=0,
    )
    monitor: str = option(
        "what chooses the best epoch and ends a stage: val_loss, or a metric of the validation"
        " images, as accuracy, roc_auc, f1_macro or brier",
        "val_loss",
    )
    min_delta: float = option("a gain of `monitor` up to this does not count for patience", 0.0)
    minutes: float = option(
        "stop training after this many minutes, within an epoch too; validation and calibration"
        " follow as usual; folds share them equally; 0 for no limit",
        0.0,
        minimum=0,
    )
    batch_size: int = option("records in a training step", 32, group="Optimizer", common=True)
    optimizer: str = option(
        "its name, as sgd, momentum, rmsprop, adam, adamw, lion or lamb, perhaps with parameters:"
        " sgd(momentum=0.9,nesterov), adam(beta_2=0.98)",
        "adam",
    )
    learning_rate: float | str = option(
        "learning rate of the optimizer; auto chooses it by a range test at the start of a stage",
        1e-3,
        words=(AUTO,),
        common=True,
    )
    backbone_learning_rate: str = option(
        "learning rate of the backbones' layers, in stages that train them; 0 for learning_rate;"
        " RATE*DECAY, as 1e-4*0.75, multiplies the rate of each block by DECAY once more for every"
        " trained block between it and the head",
        "0",
    )
    schedule: str = option(
        "how the learning rate changes with each update: constant; cosine, to 0 over all epochs, or"
        " cosine(EPOCHS), or cosine(min=0.01) to that share of it; cosine_restarts(EPOCHS,TIMES),"
        " each TIMES as long as the one before; step(EPOCHS,FACTOR), multiplied by FACTOR after"
        " every EPOCHS epochs; inverse_time(RATE), divided by 1 + RATE x epochs;"
        " plateau(FACTOR,PATIENCE), multiplied by FACTOR after PATIENCE epochs without a gain",
        "constant",
    )
    warmup_epochs: float = option(
        "epochs, or a fraction of one, in which the learning rate rises linearly from 0, while the"
        " schedule runs",
        0.0,
    )
    weight_decay: float = option(
        "decoupled weight decay (AdamW): each update subtracts learning rate x this x weight, but"
        " not of biases and of normalisation; 0 for none, and for adamw's own, 0.004",
        0.0,
    )
    clip_norm: float = option(
        "largest norm of all gradients together; longer ones are scaled down to it; 0 for no limit",
        0.0,
    )
    accumulate_steps: int = option(
        "steps whose mean gradients make one update, for a batch this many times larger; the last"
        " update of an epoch takes the steps that are left",
        1,
    )
    average: str = option(
        "averages of the weights, validated and exported in place of the weights: none; ema(DECAY),"
        " with every update; swa(EPOCH) or swa(EPOCH,EVERY), the mean of the weights every EVERY"
        " epochs from EPOCH on",
        "none",
    )
    loss: str = option(
        "loss of the training: crossentropy, or focal, which down-weights easy images; val_loss is"
        " always the cross-entropy. Where an image may have several classes, it is the mean of the"
        " binary losses of the classes",
        "crossentropy",
        group="Loss",
    )
    label_smoothing: float = option(
        "share of each label that is spread evenly over all classes, 0 to 0.5; with a sigmoid for"
        " each class over its presence and absence",
        0.0,
    )
    focal_gamma: float = option(
        "focal gamma, at least 0; higher values down-weight easy images", 2.0
    )
    teacher: str = option(
        "a cross-validation of the same images, as runs/best, or a file of tfpipe evaluate"
        " --predictions: its probabilities are mixed into the labels of the training images; empty"
        " for the labels alone",
        "",
    )
    teacher_weight: float = option(
        "part of the teacher's probabilities in an image's target, 0 to 1; the rest is its label",
        0.5,
        minimum=0,
        maximum=1,
    )
    class_weights: str = option(
        "weight of each class in the loss: none, the same for all images; balanced, the same for"
        " all classes; or NAME=W,NAME=W, and 1 for other classes",
        "none",
    )
    sampling: str = option(
        "how often an epoch has the images of each class: natural, each once; balanced, all classes"
        " equally often; sqrt, between both; or a power of the number of images, 0 to 1. The epoch"
        " keeps its length",
        "natural",
        group="Input",
    )
    seed: int = option("seed of first weights, order, augmentation and dropout", 0)
    shuffle_mb: int = option("size of the shuffle buffer, in MB of encoded images", 256)
    resize_on: str = option(
        "where training images are resized: on the host; or on the device, in one interpolation"
        " together with the augmentation, after the host only decodes",
        "host",
        ("host", "device"),
    )
    cache: str = option(
        "training images kept in memory: none, encoded files, or decoded pixels; it is an error if"
        " they do not fit",
        "none",
        ("none", "encoded", "decoded"),
    )
    feature_views: int = option(
        "augmented views of each training image whose features are cached; the epochs take turns"
        " with them, and the frozen layers run only once for each; 0 to augment each epoch anew",
        0,
        group="Cached features",
    )
    feature_cache: str = option(
        "folder of the cached features of frozen layers, which runs can share; empty for one in the"
        " run folder",
        "",
    )
    feature_gb: float = option(
        "limit of the folder of cached features, in 10^9 bytes: what does not fit beside the other"
        " features of its stage is computed in each epoch, and those of other stages and runs make"
        " room, least recently used first",
        10.0,
    )
    deterministic: bool = option(
        "whether batches come in the same order in every run; augmented images are the same either"
        " way",
        True,
        group="Input",
    )
    decode_threads: int = option("threads that decode images, 0 for one on each core", 0)
    buffer_mb: int = option(
        "memory that the input's buffers may take, in MB; 0 for half of what is free", 0
    )
    data_service: str = option(
        "grpc://HOST:PORT of a dispatcher that tfpipe.data_service started; its workers read and"
        " decode the training records; empty for this process",
        "",
    )
    checkpoint_minutes: float = option(
        "minutes between checkpoints within an epoch; each epoch ends with one too",
        10.0,
        group="Checkpoints and faults",
    )
    on_nan: str = option(
        "if the loss is not finite: stop, or rewind to the last checkpoint and continue with half"
        " the learning rate",
        "stop",
        ("stop", "rewind"),
    )
    max_corrupt: int = option(
        "damaged records that may be left out, with a warning; with more, nothing starts",
        0,
    )
    strategy: str = option(
        "devices and machines that share each batch: one_device; mirrored, all GPUs of this"
        " machine; multi_worker, the processes that TF_CONFIG names, with the same command; tpu;"
        " auto: multi_worker if TF_CONFIG names several, mirrored if there are several GPUs, else"
        " one_device",
        "auto",
        group="Devices",
    )
    log: str = option(
        "where the results of each epoch go, separated by commas: csv (always written),"
        " tensorboard, mlflow, wandb; the last two take their places from their own environment"
        " variables",
        "csv,tensorboard",
        group="Logs",
    )
    profile: bool = option(
        "trace ten steps for TensorBoard, and say whether input or compute is the bottleneck", False
    )
    tta: str = option(
        "test-time views besides the image itself, separated by commas, as flip_lr,crop(0.9); the"
        " trained model averages the logits of all; empty for none",
        "",
        group="Probabilities",
    )
    calibration: str = option(
        "how the probabilities are fitted to the validation split: temperature (one factor on the"
        " logits); platt (factor and shift; two classes); auto, the better of them in"
        " cross-validation, if one helps; none leaves the probabilities unchanged",
        "temperature",
        ("auto", "none", "temperature", "platt"),
    )
    calibration_bounds: bool = option(
        "keep the calibrated probabilities away from 0 and 1, within bounds that are fitted to the"
        " validation split, so that one confident mistake costs less log loss",
        False,
    )
    reject_rate: float = option(
        "share of images like the validation split that may be called none of the classes, as 0.01:"
        " predictions and exports then have a score, unfamiliar, above 1 for images of other kinds;"
        " 0 for none",
        0.0,
        minimum=0,
        maximum=0.5,
    )
    precision: str = option(
        "precision of the training; auto chooses by the device, and float32 where only a head is"
        " trained. Evaluation and export are always float32",
        "auto",
        ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
        group="Devices",
    )
    xla: str = option(
        "compile the training step with XLA; auto: on a GPU, not on a CPU",
        "auto",
        ("auto", "on", "off"),
    )
    describe: bool = option(
        "only show the model, block by block, with its parameters; trains, writes and downloads"
        " nothing, and assumes two classes without records",
        False,
        group="Other",
    )

    def __post_init__(self):
        """Read the number that version 0.1 saved in place of a text."""
        if not isinstance(self.backbone_learning_rate, str):
            object.__setattr__(self, "backbone_learning_rate", f"{self.backbone_learning_rate:g}")


@dataclasses.dataclass(frozen=True)
class Resolved:
    """Resolved options of a run, for all later commands."""

    classes: tuple[str, ...]  # names in the order of their labels
    class_shares: tuple[float, ...]  # of the training records
    branches: tuple[dict, ...]  # each backbone's name, input side in pixels, and first weights
    output: str  # "sigmoid", "softmax" or "sigmoids"
    records_fingerprint: str
    precision: str  # Keras' name of the training's mixed-precision policy
    xla: bool  # whether XLA compiles the training step
    depth16: str = pixels.FULL  # how 16-bit greys became 8-bit; "full" before it was an option
    records: str = ""  # absolute path or URL of the records; "" before it was saved
    labels: str = label_set.ONE  # how many classes an image has: "one", or "many" for any number

    @property
    def encoding(self) -> LabelEncoding:
        """How labels become numbers."""
        return LabelEncoding(len(self.classes), self.labels == label_set.MANY)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each class, by name."""
        return dict(zip(self.classes, self.class_shares, strict=True))
