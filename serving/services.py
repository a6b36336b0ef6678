"""The gRPC services: requests in, messages or error codes out."""

import functools
from collections.abc import Callable, Mapping
from concurrent import futures

import grpc
from grpc_health.v1 import health

from serving import cli, protocol, tensors
from serving.errors import RequestError, invalid, not_found, unimplemented
from serving.servable import Servable
from serving.versions import Model, find


def _method(handle: Callable) -> Callable:
    """Makes a servicer's method of `handle(self, request) -> response`.

    A RequestError reaches the client as it is; anything else is our mistake, which it sees as
    INTERNAL, and standard error as one line.
    """

    @functools.wraps(handle)
    def method(self, request, context: grpc.ServicerContext):
        if not context.is_active():  # the client has given up while the call was waiting
            context.abort(grpc.StatusCode.CANCELLED, "the call has ended")
        try:
            return handle(self, request)
        except RequestError as error:
            refusal = error
        except Exception as error:
            cli.error(f"{handle.__name__}: {type(error).__name__}: {error}")
            refusal = RequestError(grpc.StatusCode.INTERNAL, f"{handle.__name__} failed")
        return context.abort(refusal.code, refusal.message)

    return method


class Health(health.HealthServicer):
    """The standard health service, which ends the streams of its watchers when the server does."""

    def __init__(self):
        """Watchers cost no thread of the server, only one of their own all together."""
        super().__init__(
            experimental_non_blocking=True,
            experimental_thread_pool=futures.ThreadPoolExecutor(1),
        )
        self._watchers: set[Callable] = set()
        self._closed = False

    def Watch(self, request, context, send_response_callback=None):  # noqa: N802
        """Sends the state now and whenever it changes, until the server ends."""
        super().Watch(request, context, send_response_callback)
        # Added when it has been told the state, or `close` might end it before.
        self._watchers.add(send_response_callback)
        context.add_callback(lambda: self._watchers.discard(send_response_callback))
        if self._closed:
            send_response_callback(None)

    def open(self) -> None:
        """Says SERVING from now on."""
        for name in protocol.HEALTH_NAMES:
            self.set(name, protocol.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Says NOT_SERVING for good; a stream left open would keep the server from ending."""
        self._closed = True
        self.enter_graceful_shutdown()
        for send in tuple(self._watchers):
            send(None)


class PredictionService(protocol.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other methods only tell what they lack."""

    def __init__(self, models: Mapping[str, Model]):
        """`models` are those served, by name."""
        self._models = models

    @_method
    def Predict(self, request: protocol.PredictRequest) -> protocol.PredictResponse:  # noqa: N802
        """Runs a signature on the tensors of the request."""
        servable = self._servable(request)
        signature = request.model_spec.signature_name or protocol.DEFAULT_SIGNATURE
        outputs = servable.run(signature, request.inputs, request.output_filter)
        response = protocol.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = signature
        for alias, array in outputs.items():
            response.outputs[alias].CopyFrom(tensors.to_proto(array))
        return response

    @_method
    def GetModelMetadata(  # noqa: N802
        self, request: protocol.GetModelMetadataRequest
    ) -> protocol.GetModelMetadataResponse:
        """Returns the signatures."""
        _check_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        servable = self._servable(request)
        signatures = protocol.SignatureDefMap()
        for key, definition in servable.signatures.items():
            signatures.signature_def[key].CopyFrom(definition)
        response = protocol.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    @_method
    def Classify(self, request: protocol.ClassificationRequest) -> None:  # noqa: N802
        """Not implemented beyond the checks of the request."""
        self._refuse_examples(request)

    @_method
    def Regress(self, request: protocol.RegressionRequest) -> None:  # noqa: N802
        """Not implemented beyond the checks of the request."""
        self._refuse_examples(request)

    @_method
    def MultiInference(self, request: protocol.MultiInferenceRequest) -> None:  # noqa: N802
        """Not implemented."""
        raise unimplemented("MultiInference is not implemented")

    def _refuse_examples(
        self, request: protocol.ClassificationRequest | protocol.RegressionRequest
    ) -> None:
        servable = self._servable(request)
        signature = request.model_spec.signature_name or protocol.DEFAULT_SIGNATURE
        if signature not in servable.signatures:
            raise invalid(f"No signature was found with the name: {signature}")
        raise unimplemented("tf.Example requests are not implemented; use Predict")

    def _servable(self, request) -> Servable:
        """Finds the version that the request's ModelSpec asks for."""
        _check_spec(request)
        spec = request.model_spec
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.WhichOneof("version_choice") == "version_label":
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return find(self._models, spec.name, _version(spec))


class ModelService(protocol.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, models: Mapping[str, Model]):
        """`models` are those served, by name."""
        self._models = models

    @_method
    def GetModelStatus(  # noqa: N802
        self, request: protocol.GetModelStatusRequest
    ) -> protocol.GetModelStatusResponse:
        """Tells the state of one version, or of all that have been tried."""
        _check_spec(request)
        name, version = request.model_spec.name, _version(request.model_spec)
        statuses = self._models[name].statuses() if name in self._models else []
        if version is not None:
            statuses = [status for status in statuses if status.version == version]
            if not statuses:
                raise not_found(f"Could not find version {version} of model {name}")
        elif not statuses:
            raise not_found(f"Could not find any versions of model {name}")
        return protocol.GetModelStatusResponse(model_version_status=statuses)

    @_method
    def HandleReloadConfigRequest(self, request: protocol.ReloadConfigRequest) -> None:  # noqa: N802
        """Not implemented."""
        raise unimplemented("HandleReloadConfigRequest is not implemented; restart the server")


def _check_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


def _version(spec: protocol.ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None
