"""float32 with all of its digits."""


def exact() -> None:
    """Make float32 operations of this process exact on NVIDIA GPUs too.

    From compute capability 8.0 on, TensorFlow rounds the inputs of float32 convolutions and matrix
    products to TensorFloat-32, which has 10 bits of fraction instead of 23. Probabilities then
    differ in the third digit between a GPU and a CPU. It has no effect on half precision.
    """
    import tensorflow as tf  # here, because it takes seconds to start

    tf.config.experimental.enable_tensor_float_32_execution(False)
