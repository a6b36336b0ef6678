"""Wrong requests of every kind beside good ones: no good one fails, and the server goes on.

FUZZ_REQUESTS=10000 python -m pytest -s -m slow tests/test_serving_fuzz.py
"""

import base64
import collections
import http.client
import json
import os
import random
import socket
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
from serving_demo import call, example, predict, running_server, spec

from tfpipe.protocol import messages, tensors
from tfpipe.protocol.client import Client

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1500"))
TYPES = messages.types_pb2.DataType.values()
DTYPES = [*map(np.dtype, "BbqefdFO"), np.dtype(bool)]
SIZES = [-(2**63), -1, 0, 1, 2, 31, 2**31, 2**40, 2**62, 2**63 - 1]
BYTES = [b"", b"\xff\xfejunk", b"\xff\xd8\xff", b"GIF89a", b"\0" * 99, "data:é".encode()]
REFUSED = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED"}


class Draws(random.Random):
    """Draws requests for the signatures of a model."""

    def __init__(self, seed, signatures, image):
        super().__init__(seed)
        self.signatures = {key: each for key, each in signatures.items() if each.inputs}
        self.image = image

    def shape(self, sizes):
        """The shape of an input, right or with one or several things wrong."""
        found = [self.randint(0, 2) if size < 0 else size for size in sizes]
        for _ in range(self.choice([0, 0, 1, 1, 2])):
            place = self.randint(0, len(found))
            match self.randint(0, 3):
                case 0:
                    found.insert(place, self.randint(0, 3))
                case 1:
                    del found[place : place + 1]
                case 2 if place < len(found):
                    found[place] = self.randint(0, 40)
                case 3:
                    found = [self.randint(0, 4) for _ in range(self.randint(0, 5))]
        return found

    def array(self, info):
        right = object if info.dtype == messages.types_pb2.DT_STRING else np.uint8
        dtype = right if self.random() < 0.7 else self.choice(DTYPES)
        array = np.zeros(self.shape([dim.size for dim in info.tensor_shape.dim]), dtype)
        if array.dtype == object:
            for place in np.ndindex(array.shape):
                array[place] = self.choice([*BYTES, self.image])
        return array

    def proto(self, info):
        """A tensor, whole or broken."""
        proto = tensors.to_proto(self.array(info))
        for _ in range(self.randint(0, 2)):
            match self.randint(0, 6):
                case 0:
                    proto.dtype = self.choice(TYPES)
                case 1:
                    proto.tensor_shape.dim.add(size=self.choice(SIZES))
                case 2:
                    for dim in proto.tensor_shape.dim:
                        dim.size = self.choice(SIZES)
                case 3:
                    proto.tensor_shape.unknown_rank = True
                case 4:
                    proto.tensor_content = self.randbytes(self.randint(0, 4000))
                case 5:
                    proto.string_val.append(self.randbytes(self.randint(0, 99)))
                case 6:
                    proto.int_val.extend([self.randint(-9, 999)] * self.randint(1, 9))
        return proto

    def predict(self):
        name = self.choice(list(self.signatures))
        given = {k: self.proto(each) for k, each in self.signatures[name].inputs.items()}
        if self.random() < 0.1:
            given[self.choice(["x", "é", "images", "inputs"])] = next(iter(given.values()))
        outputs = self.choice([[], [], ["x"], ["error", "error"], ["probabilities"]])
        return predict(spec(signature_name=name), outputs, **given)

    def example(self):
        found = example(self.choice([*BYTES, self.image]))
        match self.randint(0, 5):
            case 0:
                found.features.feature["image/encoded"].int64_list.value.append(3)
            case 1:
                found.features.feature["image/encoded"].bytes_list.value.append(b"more")
            case 2:
                del found.features.feature["image/encoded"]
            case 3:
                found.features.feature["image/encoded"].ClearField("bytes_list")
        return found

    def by_examples(self):
        kinds = [messages.ClassificationRequest, messages.RegressionRequest]
        kind = self.choice([*kinds, messages.MultiInferenceRequest])
        request, names = kind(), [*self.signatures, "classify", "regress"]
        if kind in kinds:
            request.model_spec.CopyFrom(spec(signature_name=self.choice(names)))
        else:
            for _ in range(self.randint(1, 2)):
                method = f"tensorflow/serving/{self.choice(['classify', 'regress', 'x'])}"
                asked = spec(signature_name=self.choice(names))
                request.tasks.add(model_spec=asked, method_name=method)
        examples = [self.example() for _ in range(self.randint(0, 3))]
        request.input.example_list.examples.extend(examples)
        return request

    def json(self):
        """The method and the body of a REST request."""
        if self.random() < 0.2:
            feature = self.choice([3, 0.5, "x", None, [], [1, "x"], {"b64": "?"}, {"b64": "AAAA"}])
            examples = self.choice([[], [{}], 3, [3], [{"image/encoded": feature}]])
            return self.choice(["classify", "regress"]), {"examples": examples}
        name = self.choice(list(self.signatures))
        ((alias, info),) = self.signatures[name].inputs.items()
        array = self.array(info)
        encoded = base64.b64encode(self.image).decode()
        files = [encoded, encoded[:-9], f"data:,{encoded}"]
        texts = [*({"b64": each} for each in files), encoded, None]
        if array.dtype == object:
            array[...] = 0
            for place in np.ndindex(array.shape):
                array[place] = self.choice(texts)
        values = array.astype(object if array.dtype.kind in "Oc" else array.dtype).tolist()
        values = str(values) if array.dtype.kind == "c" else values
        body = self.choice([{"inputs": values}, {"inputs": {alias: values}}, {"instances": values}])
        return "predict", {"signature_name": name, **body}


def post(address, method, body):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", f"/v1/models/demo:{method}", json.dumps(body))
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, text


def not_json(word):
    raise ValueError(f"{word} is not JSON")


def fits(info, array):
    """Whether NumPy's array is one for a signature, of files or of pixels."""
    sizes = [dim.size for dim in info.tensor_shape.dim]
    right = object if info.dtype == messages.types_pb2.DT_STRING else np.uint8
    same = all(size in (-1, have) for size, have in zip(sizes, array.shape, strict=False))
    return array.dtype == right and len(sizes) == array.ndim and same


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_wrong_request_costs_a_good_one(export_dir, image_folder, tmp_path):
    images = [path.read_bytes() for path in sorted(image_folder.iterdir())[:6]]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    counts, stop = collections.Counter(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    rest = f"127.0.0.1:{port}"
    with (
        running_server(export_dir, tmp_path / "log", f"--rest_api_port={port}") as server,
        Client(server.address, "demo") as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        records = [example(image).SerializeToString() for image in images]
        good = [
            *(("", {"image_bytes": [each]}, "probabilities") for each in images),
            *(("predict_images", {"images": each[None]}, "probabilities") for each in pixels),
            *(("classify", {"inputs": [each]}, "scores") for each in records),
        ]
        alone = [client.predict(x, [y], signature_name=name)[y] for name, x, y in good]

        def ask_rightly(seed):
            draws, asked = random.Random(seed), 0
            while not stop.is_set() or not asked:
                place = draws.randrange(len(good))
                name, inputs, output = good[place]
                found = client.predict(inputs, [output], signature_name=name)[output]
                np.testing.assert_allclose(found, alone[place], atol=1e-5)
                asked += 1
            return asked

        def ask_wrongly(seed):
            draws = Draws(seed, client.signatures, images[0])
            for _ in range(REQUESTS // 4):
                kind = draws.choice(["sound", "predict", "examples", "json"])
                if kind == "json":
                    status, text = post(rest, *draws.json())
                    json.loads(text, parse_constant=not_json)
                    assert status in (200, 400, 501), text
                    counts[f"REST {status}"] += 1
                    continue
                if kind == "sound":
                    name = draws.choice(["predict_bytes", "explain", "features", "predict_images"])
                    ((alias, info),) = client.signatures[name].inputs.items()
                    array = draws.array(info)
                    request = predict(spec(signature_name=name), **{alias: array})
                else:
                    request = draws.predict() if kind == "predict" else draws.by_examples()
                try:
                    call(channel, request, timeout=60)
                    code, details = "OK", ""
                except grpc.RpcError as error:
                    code, details = error.code().name, error.details()
                assert code in {"OK"} | REFUSED, (request, details)
                assert details.isprintable()
                if kind == "sound":
                    assert (code == "OK") == fits(info, array), (array.dtype, array.shape, details)
                counts[f"gRPC {code}"] += 1

        with futures.ThreadPoolExecutor(8) as pool:
            right = [pool.submit(ask_rightly, seed) for seed in range(4)]
            wrong = [pool.submit(ask_wrongly, seed) for seed in range(4)]
            try:
                for each in wrong:
                    each.result()
            finally:
                stop.set()
            asked = sum(each.result() for each in right)
        assert server.poll() is None
    assert asked > 50
    for what in ("gRPC OK", "gRPC INVALID_ARGUMENT", "REST 200", "REST 400"):
        assert counts[what] > REQUESTS // 50, counts
    print(f"\n{asked} good requests, none failed; others: {dict(counts)}")
