"""Answers every request, over gRPC or REST: counts it, bounds their number, maps its errors."""

import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from serving import request_inference as inference
from serving.admission import AdmissionController
from serving.model_manager import ModelManager
from serving.prometheus_metrics import Metrics
from tfpipe.core import terminal
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError, invalid

GRPC, REST = "GRPC", "REST"


class PredictionHandlers:
    """The methods of the API: each takes a request message and returns a response message."""

    def __init__(
        self,
        models: ModelManager,
        admission: AdmissionController,
        metrics: Metrics | None = None,
        *,
        reloads: bool = False,
        labels_may_wait: bool = False,
    ):
        """Take what the methods use.

        Args:
            models: the models.
            admission: bounds the requests.
            metrics: counts them; None for new ones.
            reloads: answer ReloadConfigRequest.
            labels_may_wait: passed to `ModelManager.configure`.
        """
        self._reloads, self._labels_may_wait = reloads, labels_may_wait
        self.models = models
        self.admission = admission
        self.metrics = metrics or Metrics()

    def respond(self, request: Message, seconds: float | None) -> Message:
        """Return the response to a request of any method.

        Args:
            request: the message of a method.
            seconds: until the client's deadline; None for no deadline.

        Raises:
            RequestError: it is refused.
        """
        match request:
            case messages.GetModelMetadataRequest():
                return self._metadata(request)
            case messages.GetModelStatusRequest():
                return self._status(request)
            case messages.ReloadConfigRequest():
                return self._reload(request)
        spec = _spec(request)
        with self.models.acquire(spec) as model, self.admission.enter(seconds):
            return inference.run(model, request, self.metrics)

    def answer(
        self,
        request: Message,
        entrypoint: str,
        seconds: float | None,
        call: Callable[[Any, float | None], Any] | None = None,
    ) -> Any:
        """Answer a request and count it.

        Args:
            request: the message; empty if it was not read.
            entrypoint: `GRPC` or `REST`.
            seconds: until the client's deadline; None for no deadline.
            call: takes `request` and `seconds` and returns the answer; by default `respond`.

        Raises:
            RequestError: from `call`. Any other exception is a bug of the server: it becomes
                INTERNAL, with one line on standard error.
        """
        method, started, status = request.DESCRIPTOR.name, time.monotonic(), grpc.StatusCode.OK
        try:
            return (call or self.respond)(request, seconds)
        except RequestError as error:
            status = error.code
            raise
        except Exception as error:
            status = grpc.StatusCode.INTERNAL
            terminal.error(f"{method}: {type(error).__name__}: {error}")
            raise RequestError(status, f"{method} failed") from error
        finally:
            # As in TensorFlow Serving: of gRPC these three methods count, of REST all, and there
            # the API is the method of the URL.
            api = inference.APIS.get(type(request), "")
            if api or entrypoint == REST:
                name = request.model_spec.name
                known = name if name in self.models else ""
                api, spent = api if entrypoint == GRPC else api.lower(), time.monotonic() - started
                self.metrics.record(known, api, entrypoint, status.name, spent)

    def _metadata(self, request: messages.GetModelMetadataRequest) -> Message:
        spec = _spec(request)
        inference.check_metadata(request)
        with self.models.acquire(spec) as model:
            return inference.metadata(model, request)

    def _status(self, request: messages.GetModelStatusRequest) -> Message:
        spec = _spec(request)
        version = spec.version.value if spec.HasField("version") else None
        found = self.models.statuses(spec.name, version)
        return messages.GetModelStatusResponse(model_version_status=found)

    def _reload(self, request: messages.ReloadConfigRequest) -> Message:
        """Serve the models that the request lists, and no others."""
        if not self._reloads:
            raise RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                "this server takes no configuration from clients: start it with"
                " --enable_reload_config_requests",
            )
        try:
            self.models.configure(request.config, labels_may_wait=self._labels_may_wait)
        except RequestError as error:
            terminal.error(f"ReloadConfig failed: {error.message}")
            raise
        serving = "; ".join(
            f"{name} version {', '.join(map(str, versions))}"
            for name, versions in self.models.served.items()
        )
        terminal.say(f"reloaded: serving {serving or 'nothing'}")
        response = messages.ReloadConfigResponse()
        response.status.SetInParent()  # OK
        for name in dict.fromkeys(request.metric_names):  # TensorFlow's own are not counted here
            response.metric.add(name=name, int64_value_increase=0)
        return response


def _spec(request: Any) -> messages.ModelSpec:
    """Return the model that a request names; raises RequestError if it names none."""
    if isinstance(request, messages.MultiInferenceRequest):
        return request.tasks[0].model_spec if request.tasks else messages.ModelSpec()
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec
