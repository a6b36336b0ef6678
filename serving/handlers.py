"""Handles every request, over gRPC or REST: counts it, bounds their number, maps its errors."""

import time
from collections.abc import Callable
from typing import Any

import grpc

from serving import request_inference as inference
from serving.admission import AdmissionController
from serving.model_manager import ModelManager
from tfpipe.core import terminal
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError, invalid

GRPC, REST = "GRPC", "REST"

_NO_SPEC = messages.ModelSpec()


class PredictionHandlers:
    """The methods of the API; each takes a request message and returns a response message."""

    def __init__(self, models: ModelManager, admission: AdmissionController, metrics: Any = None):
        """`metrics` is a `serving.prometheus_metrics.Metrics`, or None to count nothing."""
        self.models = models
        self.admission = admission
        self._metrics = metrics

    def predict(self, request: messages.PredictRequest, seconds: float | None):
        """Run a signature on the tensors of the request."""
        return self._infer(inference.predict, request, request, seconds)

    def classify(self, request: messages.ClassificationRequest, seconds: float | None):
        """Run a classification signature on the examples of the request."""
        return self._infer(inference.classify, request, request, seconds)

    def regress(self, request: messages.RegressionRequest, seconds: float | None):
        """Run a regression signature on the examples of the request."""
        return self._infer(inference.regress, request, request, seconds)

    def multi_inference(self, request: messages.MultiInferenceRequest, seconds: float | None):
        """Run several signatures on the examples of the request."""
        first = request.tasks[0] if request.tasks else messages.InferenceTask(model_spec=_NO_SPEC)
        return self._infer(inference.multi_inference, request, first, seconds)

    def metadata(self, request: messages.GetModelMetadataRequest, seconds: float | None):
        """Return the signatures."""
        _check_spec(request)
        inference.check_metadata(request)
        with self.models.acquire(request.model_spec) as model:
            return inference.metadata(model, request)

    def status(self, request: messages.GetModelStatusRequest, seconds: float | None):
        """Return the state of one version, or of all known ones."""
        _check_spec(request)
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        found = self.models.statuses(spec.name, version)
        return messages.GetModelStatusResponse(model_version_status=found)

    def reload(self, request: messages.ReloadConfigRequest, seconds: float | None):
        """Serve the models that the request lists, and no others."""
        self.models.configure(request.config)
        serving = "; ".join(
            f"{name} version {', '.join(map(str, versions))}"
            for name, versions in self.models.served.items()
        )
        terminal.say(f"reloaded: serving {serving or 'nothing'}")
        return messages.ReloadConfigResponse()

    def answer(
        self, api: str, request: Any, entrypoint: str, seconds: float | None, call: Callable
    ) -> Any:
        """Call a method and count it.

        Args:
            api: "predict", "classify", ...
            request: the message, which names the model.
            entrypoint: `GRPC` or `REST`.
            seconds: until the client's deadline; None for no deadline.
            call: takes `seconds` and returns the answer.

        Raises:
            RequestError: from `call`. Any other exception is a bug of the server: it becomes
                INTERNAL, with one line on standard error.
        """
        started, status = time.monotonic(), grpc.StatusCode.OK
        try:
            return call(seconds)
        except RequestError as error:
            status = error.code
            raise
        except Exception as error:
            status = grpc.StatusCode.INTERNAL
            terminal.error(f"{api}: {type(error).__name__}: {error}")
            raise RequestError(status, f"{api} failed") from error
        finally:
            if self._metrics:
                name = getattr(request, "model_spec", _NO_SPEC).name
                known = name if name in self.models else ""
                spent = time.monotonic() - started
                self._metrics.record(known, api, entrypoint, status.name, spent)

    def _infer(self, function: Callable, request: Any, named: Any, seconds: float | None) -> Any:
        """Call `function` with the model and the request; `named` has the model_spec."""
        _check_spec(named)
        with self.models.acquire(named.model_spec) as model, self.admission.enter(seconds):
            return function(model, request)


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
