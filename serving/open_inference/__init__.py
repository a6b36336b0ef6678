"""The Open Inference Protocol (KServe V2): https://github.com/kserve/open-inference-protocol."""
