"""Which kernels TensorFlow computes with on a CPU."""

import os


def use() -> None:
    """Make TensorFlow use oneDNN's kernels on every x86 CPU.

    By default it uses them only with AVX-512 VNNI, AVX-VNNI or AMX. With AVX2 alone its own
    gradient of a 1 x 1 convolution takes up to seven times as long, so training takes up to 1.6
    times as long; inference differs little (docs/benchmarks.md).

    Call it before TensorFlow is imported. What a user has set in TF_ENABLE_ONEDNN_OPTS wins.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
