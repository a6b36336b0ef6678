# tfpipe with its locked packages: training, evaluation, the embedded server and the page.
#
#     docker build --tag tfpipe .
#     docker run --rm --volume "$PWD":/data tfpipe pipeline /data/train.zip --out=/data/pets
#
# For NVIDIA GPUs, with the packages of CUDA from the other lock file:
#
#     docker build --build-arg LOCK=requirements-gpu.lock --tag tfpipe:gpu .
#     docker run --rm --gpus all --volume "$PWD":/data tfpipe:gpu pipeline /data/train.zip --out=/data/pets
#
# The page: docker run --rm --publish 127.0.0.1:8080:8080 tfpipe webapp --host=0.0.0.0 --server=...
FROM python:3.12.8-slim-bookworm AS packages
ARG LOCK=requirements.lock
COPY ${LOCK} /tmp/packages.lock
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --requirement /tmp/packages.lock
COPY pyproject.toml README.md LICENSE /source/
COPY tfpipe /source/tfpipe
COPY configs /source/configs
COPY serving /source/serving
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation /source

FROM python:3.12.8-slim-bookworm
COPY --from=packages /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
WORKDIR /data
EXPOSE 8080 8500 8501
# Files that it writes to a mounted folder belong to its user: docker run --user "$(id -u):$(id -g)".
USER 1000:1000
ENV HOME=/tmp
ENTRYPOINT ["tfpipe"]
CMD ["--help"]
