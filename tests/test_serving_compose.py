"""The files that start TensorFlow Serving and the web page in containers."""

import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from absl import flags

from serving import server_config, webapp
from tfpipe import publish
from tfpipe.core import options
from tfpipe.images.pixels import MAX_PIXELS

httpx = pytest.importorskip("httpx")
yaml = pytest.importorskip("yaml")

FOLDER = pathlib.Path(__file__).parent.parent / "serving"
VERSION = re.search(r"^TF_SERVING_VERSION=(\S+)$", (FOLDER / ".env").read_text(), re.M)[1]
# Of tensorflow_model_server (model_servers/main.cc).
FLAGS = set(
    """port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
    rest_api_enable_cors_support enable_batching allow_version_labels_for_unavailable_models
    batching_parameters_file enable_per_model_batching_parameters model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads
    num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_session_config_file tensorflow_intra_op_parallelism
    tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file platform_config_file
    per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads
    enable_model_warmup num_request_iterations_for_warmup version monitoring_config_file
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check
    xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler
    thread_pool_factory_config_file mixed_precision
    skip_initialize_tpu enable_grpc_healthcheck_service enable_serialization_as_tensor_content
    """.split()
)


def compose(service="serving", **environment):
    """Reads a service of compose.yaml with ${NAME} filled in as Docker Compose does."""
    text = (FOLDER / environment.pop("file", "compose.yaml")).read_text(encoding="utf-8")
    variables = {"TF_SERVING_VERSION": VERSION, **environment}
    filled = re.sub(
        r"\$\{(\w+)(?::-([^}]*))?\}", lambda match: variables.get(match[1]) or match[2], text
    )
    assert "$" not in filled
    return yaml.safe_load(filled)["services"][service]


def flags_of(service):
    return dict(flag.removeprefix("--").split("=", 1) for flag in service["command"])


def test_the_server_of_compose():
    service = compose()
    flags = flags_of(service)
    assert set(flags) <= FLAGS
    assert service["image"] == f"tensorflow/serving:{VERSION}"
    assert publish.SERVING_VERSION == VERSION  # what an export is checked for
    assert compose(TF_SERVING_VERSION="2.15.1")["image"] == "tensorflow/serving:2.15.1"
    ports = [f"127.0.0.1:{flags[name]}:{flags[name]}" for name in ("port", "rest_api_port")]
    assert service["ports"] == ports
    changed = flags_of(compose(MODEL_NAME="pets", MODEL_CONFIG_FILE="/config/models.config"))
    assert (changed["model_name"], changed["model_base_path"]) == ("pets", "/models/pets")
    assert changed["model_config_file"] == "/config/models.config"
    assert compose(file="compose.gpu.yaml")["image"] == service["image"] + "-gpu"


def test_every_file_in_the_container_is_mounted_read_only():
    service = compose(MODEL_CONFIG_FILE="/config/models.config")
    mounts = {}
    for volume in service["volumes"]:
        source, target, mode = volume.split(":")
        assert (FOLDER / source).resolve().exists()
        assert mode == "ro"
        mounts[target] = source
    for name, value in flags_of(service).items():
        if name.endswith("_file"):
            assert value in mounts, name
    assert mounts["/models"] == "../export"


@pytest.mark.parametrize("name", ["serving", "web"])
def test_a_container_has_no_privileges(name):
    service = compose(name)
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert "privileged" not in service
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_prometheus_scrapes_what_is_served():
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    path = server_config.read_metrics_path(str(FOLDER / "monitoring.config"))
    assert job["metrics_path"] == path
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]


DOCKERFILE = (FOLDER / "Dockerfile.web").read_text(encoding="utf-8")
WEB_PACKAGES = re.search(r"\^\(([^)]+)\)==", DOCKERFILE)[1].split("|")


def test_the_page_asks_the_server_of_compose(monkeypatch):
    service = compose("web", MODEL_NAME="pets")
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)[1])
    assert entry[:3] == ["python", "-m", "serving.webapp"]
    monkeypatch.setattr(sys, "argv", ["webapp", *entry[3:], *service["command"]])
    values = flags.FlagValues()
    options.define_flags(webapp.Options, values)
    values(sys.argv)
    given = options.from_flags(webapp.Options, values)
    host, port = given.server.split(":")
    assert host in service["depends_on"]
    assert flags_of(compose())["port"] == port
    assert given.model_name == flags_of(compose(MODEL_NAME="pets"))["model_name"] == "pets"
    assert service["ports"] == [f"127.0.0.1:{given.port}:{given.port}"]
    assert f":{given.port}/healthz" in service["healthcheck"]["test"][-1]
    assert service["profiles"] == ["web"]  # not built for those who want a server only


def test_the_packages_of_the_page_are_those_of_the_lock_file(tmp_path):
    command = re.search(r"^RUN (sed .*?) requirements.lock > web.lock", DOCKERFILE, re.M)[1]
    lock = FOLDER.parent / "requirements.lock"
    found = subprocess.run([*shlex.split(command), lock], capture_output=True, text=True).stdout
    names = {line.split("==")[0] for line in found.splitlines() if line[0].isalpha()}
    assert names == set(WEB_PACKAGES)
    assert set(found.splitlines()) <= set(lock.read_text().splitlines())


def test_the_image_holds_all_that_the_page_imports(tmp_path):
    """Starts the page from what the Dockerfile copies and installs, and nothing else."""
    if sys.version_info < (3, 11):
        pytest.skip("the image has Python 3.11, where anyio needs fewer packages")
    packages, application = tmp_path / "packages", tmp_path / "app"
    packages.mkdir()
    for name in WEB_PACKAGES:
        for file in importlib.metadata.files(name):
            top = file.parts[0]
            there = packages / top
            if name == "tensorflow" and top == "tensorflow":
                if file.name.endswith("_pb2.py"):
                    (packages / file).parent.mkdir(parents=True, exist_ok=True)
                    (packages / file).symlink_to(file.locate())
            elif top not in ("..", "__pycache__") and not there.is_symlink():
                there.symlink_to(importlib.metadata.distribution(name).locate_file(top))
    ignored = (FOLDER / "Dockerfile.web.dockerignore").read_text().split()
    for sources, target in re.findall(r"^COPY (?!--)(.+) (\S+)$", DOCKERFILE, re.M):
        for source in sources.split():
            assert f"!{source}" in ignored
            if not target.startswith("/app/"):
                continue
            here, there = FOLDER.parent / source, application / target.removeprefix("/app/")
            if here.is_dir():
                shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                there.mkdir(parents=True, exist_ok=True)
                shutil.copy(here, there)
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "serving.webapp", "--server=127.0.0.1:1", "--port=0"],
        cwd=application, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{application}:{packages}", "PYTHONNOUSERSITE": "1"},
    )  # fmt: skip
    try:
        url = re.fullmatch(r"the page for default is at (\S+)\n", process.stderr.readline())[1]
        assert "What is in the picture?" in httpx.get(url).text
        assert httpx.get(f"{url}/healthz").status_code == 503
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


CANARY = FOLDER.parent / "deploy" / "canary"


def manifests(*names):
    paths = [FOLDER / "kubernetes" / name for name in names]
    return [each for path in paths for each in yaml.safe_load_all(path.read_text("utf-8"))]


def built(folder):
    """The objects that kubectl makes of a kustomization."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not here")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def megabytes(text):
    return float(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]


class TestKubernetes:
    @pytest.fixture
    def found(self):
        """The objects by kind."""
        documents = manifests("serving.yaml", "network_policy.yaml")
        assert len({each["kind"] for each in documents}) == len(documents)
        return {each["kind"]: each for each in documents}

    @pytest.fixture
    def pod(self, found):
        return found["Deployment"]["spec"]["template"]

    @pytest.fixture
    def container(self, pod):
        (container,) = pod["spec"]["containers"]
        return container

    def test_the_flags_are_those_of_compose(self, container):
        assert flags_of({"command": container["args"]}).items() <= (
            flags_of(compose(MODEL_CONFIG_FILE="/config/models.config")).items()
        )

    @pytest.mark.parametrize("folder", [FOLDER, CANARY])
    def test_objects_fit_the_schemas_of_kubernetes(self, folder):
        validate = pytest.importorskip("kubernetes_validate")
        for each in [*manifests("serving.yaml", "network_policy.yaml"), *built(folder)]:
            validate.validate(each, validate.latest_version(), strict=True)

    def test_a_wrong_object_does_not_fit(self, found):
        validate = pytest.importorskip("kubernetes_validate")
        found["Deployment"]["spec"]["replica"] = 1
        with pytest.raises(validate.ValidationError):
            validate.validate(found["Deployment"], validate.latest_version(), strict=True)

    @pytest.mark.parametrize("folder", [FOLDER, CANARY])
    def test_kustomize_fills_in_the_version_and_the_files(self, folder, tmp_path):
        """Every file that a flag names is in the ConfigMap, and can be read."""
        objects = built(folder)
        (container,) = next(
            each["spec"]["template"]["spec"]["containers"]
            for each in objects
            if each["kind"] == "Deployment"
        )
        assert container["image"] == compose()["image"]
        data = next(
            each["data"] for each in objects if each["metadata"]["name"] == "serving-config"
        )
        for name, text in data.items():
            (tmp_path / name).write_text(text)
        flags = flags_of({"command": container["args"]})
        for name, path in flags.items():
            if name.endswith("_file"):
                assert path.removeprefix("/config/") in data, name
        (model,) = server_config.read_models(
            str(tmp_path / "models.config")
        ).model_config_list.config
        assert set(model.version_labels.values()) <= set(
            model.model_version_policy.specific.versions
        )
        # Without it TensorFlow Serving ends when it meets a label: no version is loaded yet.
        assert flags["allow_version_labels_for_unavailable_models"] == "true"
        assert bool(model.version_labels) == (folder == CANARY)
        server_config.read_batching(str(tmp_path / "batching.config"))
        assert server_config.read_metrics_path(str(tmp_path / "monitoring.config"))

    def test_pods_have_no_privileges_and_are_probed(self, pod, container):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"] == {"port": 8500}
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}

    def test_the_largest_images_fit_the_memory(self, container):
        """Each that is decoded at the same time takes 10 bytes a pixel; a GiB is for the rest."""
        flags, limits = flags_of({"command": container["args"]}), container["resources"]["limits"]
        decodes = int(flags["tensorflow_inter_op_parallelism"])
        assert decodes * 10 * MAX_PIXELS / 2**20 + 1024 <= megabytes(limits["memory"])
        assert float(limits["cpu"]) == decodes
        assert compose()["mem_limit"] == "4g"

    def test_a_pod_answers_on_before_it_ends(self, pod, container):
        """The image has no handler of SIGTERM; only this pause lets requests finish."""
        seconds = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert 10 <= seconds < pod["spec"]["terminationGracePeriodSeconds"]

    def test_the_objects_belong_together(self, found, pod):
        labels = pod["metadata"]["labels"]
        assert found["Service"]["spec"]["selector"] == labels
        for kind in ("Deployment", "PodDisruptionBudget"):
            assert found[kind]["spec"]["selector"]["matchLabels"] == labels
        assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
        target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert target["name"] == found["Deployment"]["metadata"]["name"]

    def test_only_named_sources_reach_the_ports(self, found, container):
        policy = found["NetworkPolicy"]["spec"]
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        assert all(rule["from"] for rule in policy["ingress"])
        ports = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
        assert ports == {port["containerPort"] for port in container["ports"]}

    def test_kserve_serves_the_same(self, container):
        (service,) = manifests("kserve.yaml")
        assert service["apiVersion"] == "serving.kserve.io/v1beta1"
        assert service["kind"] == "InferenceService"
        model = service["spec"]["predictor"]["model"]
        assert model["modelFormat"] == {"name": "tensorflow"}
        assert model["protocolVersion"] == "v1"
        assert model["runtimeVersion"] == VERSION
        assert model["resources"] == container["resources"]
        assert set(model["args"]) <= set(container["args"])


def test_the_workflow_starts_the_image_and_asks_it():
    """Every target and file that its steps name exists."""
    text = (FOLDER.parent / ".github/workflows/conformance.yaml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    makefile = (FOLDER.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)", "\n".join(lines), re.M):
        assert re.search(rf"^{target}:", makefile, re.M)
    for path in re.findall(r"(?:kustomize|-f) (\S+)", "\n".join(lines)):
        assert (FOLDER.parent / path).exists()
    flags = flags_of(compose())
    asked = (
        f"make conformance TARGET=127.0.0.1:{flags['port']} REST=127.0.0.1:{flags['rest_api_port']}"
    )
    started = next(i for i, line in enumerate(lines) if "compose.yaml up" in line)
    assert asked in lines[started + 1 :]


@pytest.mark.parametrize(
    ("state", "status"), [("AVAILABLE", 0), ("LOADING", 1), ("UNAVAILABLE", 1)]
)
def test_the_health_check_asks_for_the_state(state, status):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = f'{{"model_version_status": [{{"state": "{state}"}}]}}'.encode()
            self.send_response(200 if self.path == "/v1/models/pets" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.path == "/v1/models/pets" else b"")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        kind, *command = compose(MODEL_NAME="pets")["healthcheck"]["test"]
        assert kind == "CMD"
        command[-1] = command[-1].replace("/8501", f"/{server.server_port}")
        assert subprocess.run(command, timeout=10).returncode == status
