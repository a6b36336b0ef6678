"""The messages and stubs of TensorFlow Serving, without the seconds that TensorFlow's import takes.

The generated modules of `tensorflow-serving-api` need only other generated modules, which are
inside the package `tensorflow`. To import those runs all of TensorFlow first. So an empty package
with the same search path stands in for `tensorflow` during these imports. A later
`import tensorflow` runs as usual and finds the same message classes.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server


@contextlib.contextmanager
def _hollow(package: str) -> Iterator[None]:
    """Allow imports from `package` without running its `__init__`."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None:  # loaded already, or not installed: the imports below report that
        yield
        return
    stand_in = types.ModuleType(package)
    stand_in.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]


with _hollow("tensorflow"):
    from tensorflow.core.example.example_pb2 import Example
    from tensorflow.core.framework import types_pb2
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
    from tensorflow_serving.apis.classification_pb2 import (
        ClassificationRequest,
        ClassificationResponse,
        ClassificationResult,
    )
    from tensorflow_serving.apis.get_model_metadata_pb2 import (
        GetModelMetadataRequest,
        GetModelMetadataResponse,
        SignatureDefMap,
    )
    from tensorflow_serving.apis.get_model_status_pb2 import (
        GetModelStatusRequest,
        GetModelStatusResponse,
        ModelVersionStatus,
    )
    from tensorflow_serving.apis.inference_pb2 import (
        InferenceTask,
        MultiInferenceRequest,
        MultiInferenceResponse,
    )
    from tensorflow_serving.apis.input_pb2 import Input
    from tensorflow_serving.apis.model_management_pb2 import (
        ReloadConfigRequest,
        ReloadConfigResponse,
    )
    from tensorflow_serving.apis.model_pb2 import ModelSpec
    from tensorflow_serving.apis.model_service_pb2_grpc import (
        ModelServiceServicer,
        ModelServiceStub,
        add_ModelServiceServicer_to_server,
    )
    from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceServicer,
        PredictionServiceStub,
        add_PredictionServiceServicer_to_server,
    )
    from tensorflow_serving.apis.regression_pb2 import (
        RegressionRequest,
        RegressionResponse,
        RegressionResult,
    )
    from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
        FileSystemStoragePathSourceConfig,
    )
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

ServableVersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy

DEFAULT_SIGNATURE = "serving_default"
# The service names of health checks; "" is the whole server.
HEALTH_NAMES = ("", "PredictionService", "ModelService")

__all__ = [
    "DEFAULT_SIGNATURE",
    "HEALTH_NAMES",
    "ClassificationRequest",
    "ClassificationResponse",
    "ClassificationResult",
    "Example",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "HealthCheckRequest",
    "HealthCheckResponse",
    "HealthStub",
    "InferenceTask",
    "Input",
    "ModelServerConfig",
    "ModelServiceServicer",
    "ModelServiceStub",
    "ModelSpec",
    "ModelVersionStatus",
    "MultiInferenceRequest",
    "MultiInferenceResponse",
    "PredictRequest",
    "PredictResponse",
    "PredictionLog",
    "PredictionServiceServicer",
    "PredictionServiceStub",
    "RegressionRequest",
    "RegressionResponse",
    "RegressionResult",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "ServableVersionPolicy",
    "SignatureDef",
    "SignatureDefMap",
    "TensorProto",
    "add_HealthServicer_to_server",
    "add_ModelServiceServicer_to_server",
    "add_PredictionServiceServicer_to_server",
    "types_pb2",
]
