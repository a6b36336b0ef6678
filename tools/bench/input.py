"""Measures the input pipeline beside libjpeg-turbo, which only decodes, and beside its peers.

    python -m tools.bench.input --source=train.zip [--peers_python=PYTHON] [--json=FILE]

All read the same images: those that `tfpipe.build_records` accepts. The figure is images/s.

    limit               libjpeg-turbo alone, from memory, a process on each core
    STORE-host          batches of the pipeline, resized on the host
    STORE-device        batches of the pipeline with resize_on=device: the host's part only
    ...-augment         with recipe R3's augmentation on the device, compiled, and for -device the
                        resize; each batch is waited for
    dataset-DTYPE       batches of `as_dataset` from the store original, uint8 or float32
    memory              resident memory of original-host-augment after 2 and after 10 epochs
    the others          peers, see tools/bench/peers.py

The stores are original, resized (JPEG quality 95), resized75 and raw. Each case is a process of
its own, which warms up for an epoch and then measures whole epochs. What is tfpipe's runs with the
settings of `tfpipe.train`, a peer with its defaults.
"""

import functools
import sys
from collections.abc import Sequence

from tools.bench import data, harness, peers, report
from tools.bench.harness import Case, Tree
from tools.bench.report import Ratio, Round

# The flags of `tfpipe.build_records` for each store.
STORES = {
    "original": ("--store=original",),
    "resized": ("--store=resized:{0}x{0}",),
    "resized75": ("--store=resized:{0}x{0}", "--jpeg_quality=75"),
    "raw": ("--store=raw:{0}",),
}
# The least images/s of a case, divided by those of another.
TARGETS = {
    ("original-host", "limit"): 0.58,
    ("original-device", "limit"): 0.72,
    ("original-device", "dali-decode"): 1.0,
    ("resized-host", "limit"): 1.1,
    ("resized75-host", "limit"): 1.1,
    ("original-host-augment", "keras-generator"): 10.0,
    ("original-device-augment", "keras-generator"): 10.0,
    ("resized-host-augment", "keras-generator"): 10.0,
    ("original-host-augment", "dali-augment"): 3.0,
    ("dataset-uint8", "original-host"): 0.95,
    ("dataset-float32", "keras-dataset"): 1.0,
}
MEMORY = "original-host-augment"


def main() -> int:
    """Print the tables; return the exit status."""
    flags = data.parser(__doc__).parse_args()
    with harness.session(flags) as session:
        folder = data.prepare(session, flags.source, flags.images)
        given = data.settings(flags)

        @functools.cache
        def records(tree: Tree, store: str) -> str:
            out = session.work / f"{store}-{tree.name}"
            filled = [flag.format(flags.size) for flag in STORES[store]]
            data.build(tree, [folder], out, *filled, "--splits=train:1", "--duplicates=keep")
            return str(out)

        def ours(function: str, name: str) -> Case:
            store, resize_on, *augment = name.split("-")

            def measure(tree: Tree) -> dict:
                chosen = {"resize_on": resize_on, "augment": bool(augment)}
                return harness.call(tree, function, folder=records(tree, store), **chosen, **given)

            return Case("memory" if function == "ours.memory" else name, measure)

        def dataset(dtype: str) -> Case:
            def measure(tree: Tree) -> dict:
                stored = records(tree, "original")
                return harness.call(tree, "ours.dataset", folder=stored, dtype=dtype, **given)

            return Case(f"dataset-{dtype}", measure)

        def peer(function: str) -> Case:
            def measure(tree: Tree) -> dict:
                return harness.call(tree, f"peers.{function}", folder=folder, **given)

            return Case(function.replace("_", "-"), measure, ours=False)

        cases = [peer("limit")]
        cases += [
            ours("ours.pipeline", f"{store}-{where}{augment}")
            for store in STORES
            for where in ("host", "device")
            for augment in ("", "-augment")
        ]
        cases += [dataset(dtype) for dtype in ("uint8", "float32")]
        cases += [peer(function.__name__) for function in peers.INPUT]
        cases += [ours("ours.memory", MEMORY)]
        return harness.run(session, cases, ("limit", "keras-generator"), comparisons(TARGETS))


def comparisons(targets: dict[tuple[str, str], float]) -> Sequence[Ratio]:
    """Return the ratios of the targets, and the growth of the memory."""

    def growth(one: Round) -> float:
        return one["memory"]["MB after epoch 10"] / one["memory"]["MB after epoch 2"]

    rates = [report.ratio("images/s", *pair, least=least) for pair, least in targets.items()]
    return [*rates, Ratio("memory after epoch 10 / 2", growth, most=1.05)]


if __name__ == "__main__":
    sys.exit(main())
