"""Ends what a dead worker of a tf.data service has left behind, so that no trainer waits for it.

A dispatcher of TensorFlow 2.15 never forgets a worker: a job is over only when each of them has
said so, and trainers wait until a worker comes back at the address of one that was killed. Here
the dispatcher's process says so in its place, over the protocol that workers use. The shards that
the worker had begun are lost to the job, as they are when it comes back.
"""

import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfpipe.input import endpoint

# Of tensorflow/core/data/service/{dispatcher,common}.proto in TensorFlow 2.15.1, whose wheel holds
# no Python for them: for each message the fields used here, with their numbers.
_INT64, _BOOL, _STRING = (
    getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name}")
    for name in ("INT64", "BOOL", "STRING")
)
_MESSAGES = {
    "GetWorkersRequest": {},
    "WorkerInfo": {"address": (1, _STRING)},
    "GetWorkersResponse": {"workers": (1, "WorkerInfo")},
    "TaskDef": {"task_id": (4, _INT64), "num_consumers": (7, _INT64)},
    "WorkerHeartbeatRequest": {"worker_address": (1, _STRING)},
    "WorkerHeartbeatResponse": {"new_tasks": (1, "TaskDef")},
    "TaskProgress": {"task_id": (1, _INT64), "completed": (2, _BOOL)},
    "WorkerUpdateRequest": {"worker_address": (1, _STRING), "updates": (2, "TaskProgress")},
    "WorkerUpdateResponse": {},
}
_SERVICE = "/tensorflow.data.DispatcherService"

CALL_S = 5.0


class LostWorkers:
    """The workers of a dispatcher that nobody can connect to any more."""

    def __init__(self, dispatcher: str, after_s: float):
        """Watches the workers of a dispatcher.

        Args:
            dispatcher: its "host:port".
            after_s: for how long a worker must be out of reach, in seconds.
        """
        self._channel = grpc.insecure_channel(dispatcher)
        self._messages = _message_classes()
        self._after_s = after_s
        self._silent_since: dict[str, float] = {}
        self._lost: set[str] = set()

    def check(self) -> tuple[list[str], list[str]]:
        """Connects to all workers, and ends the tasks of the lost ones if others can go on.

        Tasks of coordinated reads are left to the trainers, which agree on their end themselves.

        Returns:
            The addresses of workers that were lost since the last call, and of those that came
            back.

        Raises:
            grpc.RpcError: the dispatcher does not answer.
        """
        workers = [worker.address for worker in self._call("GetWorkers").workers]
        with futures.ThreadPoolExecutor(max_workers=16) as pool:
            answers = pool.map(endpoint.is_reachable, workers)
            reachable = {worker for worker, there in zip(workers, answers, strict=True) if there}
        now = time.monotonic()
        self._silent_since = {
            worker: self._silent_since.get(worker, now) for worker in set(workers) - reachable
        }
        lost = set()
        if reachable:  # else there is nobody to go on, and the jobs wait
            lost = {w for w, since in self._silent_since.items() if now - since >= self._after_s}
        for worker in lost:
            self._finish_tasks(worker)
        new, back = sorted(lost - self._lost), sorted(self._lost & reachable)
        self._lost = (self._lost | lost) - reachable
        return new, back

    def _finish_tasks(self, worker: str) -> None:
        """Asks for the worker's tasks as it would after a restart, and says that they are done."""
        tasks = self._call("WorkerHeartbeat", worker_address=worker).new_tasks
        done = [
            {"task_id": task.task_id, "completed": True} for task in tasks if not task.num_consumers
        ]
        if done:
            self._call("WorkerUpdate", worker_address=worker, updates=done)

    def _call(self, method: str, **fields):
        method_call = self._channel.unary_unary(
            f"{_SERVICE}/{method}",
            request_serializer=self._messages[f"{method}Request"].SerializeToString,
            response_deserializer=self._messages[f"{method}Response"].FromString,
        )
        return method_call(self._messages[f"{method}Request"](**fields), timeout=CALL_S)


def _message_classes() -> dict[str, type]:
    """Returns the classes of `_MESSAGES` by their names."""
    package = "tfpipe.dispatcher"
    file = descriptor_pb2.FileDescriptorProto(
        name="tfpipe/dispatcher.proto", package=package, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            if isinstance(kind, str):
                message.field.add(
                    name=field, number=number, label=3, type=11, type_name=f".{package}.{kind}"
                )
            else:
                message.field.add(name=field, number=number, label=1, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _MESSAGES
    }
