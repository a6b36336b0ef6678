"""One way in for every request: counted, bounded in number, its faults told apart."""

import time
from collections.abc import Callable
from typing import Any

import grpc

from serving import cli, inference, protocol
from serving.errors import RequestError, invalid
from serving.limit import Limit
from serving.models import Models

GRPC, REST = "GRPC", "REST"

_NO_SPEC = protocol.ModelSpec()


class Calls:
    """The methods of the API, each from a request message to a response message."""

    def __init__(self, models: Models, limit: Limit, metrics: Any = None):
        """`metrics` is a `serving.metrics.Metrics`, or None to count nothing."""
        self.models = models
        self.limit = limit
        self._metrics = metrics

    def predict(self, request: protocol.PredictRequest, seconds: float | None):
        """Runs a signature on the tensors of the request."""
        return self._infer(inference.predict, request, request, seconds)

    def classify(self, request: protocol.ClassificationRequest, seconds: float | None):
        """Runs a signature of classification on the examples of the request."""
        return self._infer(inference.classify, request, request, seconds)

    def regress(self, request: protocol.RegressionRequest, seconds: float | None):
        """Runs a signature of regression on the examples of the request."""
        return self._infer(inference.regress, request, request, seconds)

    def multi_inference(self, request: protocol.MultiInferenceRequest, seconds: float | None):
        """Runs several signatures on the examples of the request."""
        first = request.tasks[0] if request.tasks else protocol.InferenceTask(model_spec=_NO_SPEC)
        return self._infer(inference.multi_inference, request, first, seconds)

    def metadata(self, request: protocol.GetModelMetadataRequest, seconds: float | None):
        """Returns the signatures."""
        _check_spec(request)
        inference.check_metadata(request)
        with self.models.use(request.model_spec) as servable:
            return inference.metadata(servable, request)

    def status(self, request: protocol.GetModelStatusRequest, seconds: float | None):
        """Tells the state of one version, or of all that have been tried."""
        _check_spec(request)
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        found = self.models.statuses(spec.name, version)
        return protocol.GetModelStatusResponse(model_version_status=found)

    def reload(self, request: protocol.ReloadConfigRequest, seconds: float | None):
        """Serves what the request lists, and nothing else."""
        self.models.configure(request.config)
        serving = "; ".join(
            f"{name} version {', '.join(map(str, versions))}"
            for name, versions in self.models.served.items()
        )
        cli.say(f"reloaded: serving {serving or 'nothing'}")
        return protocol.ReloadConfigResponse()

    def answer(
        self, api: str, request: Any, entrypoint: str, seconds: float | None, call: Callable
    ) -> Any:
        """Calls a method and counts it.

        Args:
            api: "predict", "classify", ...
            request: its message, which names the model.
            entrypoint: `GRPC` or `REST`.
            seconds: that the client waits at most; None for ever.
            call: a function of `seconds` to the answer.

        Raises:
            RequestError: whatever else `call` raises is our mistake, told on standard error as one
                line, and INTERNAL.
        """
        started, status = time.monotonic(), grpc.StatusCode.OK
        try:
            return call(seconds)
        except RequestError as error:
            status = error.code
            raise
        except Exception as error:
            status = grpc.StatusCode.INTERNAL
            cli.error(f"{api}: {type(error).__name__}: {error}")
            raise RequestError(status, f"{api} failed") from error
        finally:
            if self._metrics:
                name = getattr(request, "model_spec", _NO_SPEC).name
                known = name if name in self.models else ""
                spent = time.monotonic() - started
                self._metrics.record(known, api, entrypoint, status.name, spent)

    def _infer(self, function: Callable, request: Any, named: Any, seconds: float | None) -> Any:
        """Calls a function of a servable and the request; `named` has the model_spec."""
        _check_spec(named)
        with self.models.use(named.model_spec) as servable, self.limit.enter(seconds):
            return function(servable, request)


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
