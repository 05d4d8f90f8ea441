# The server in an image, for a CPU (the default) or for CUDA:
#   docker build -t multigraft --build-arg TORCH_CPU_INDEX=(PyTorch's index of CPU builds) .
#   docker build -t multigraft:cuda --build-arg DEVICE=cuda .
#   docker run -p 8100:8100 -v multigraft:/data -e MULTIGRAFT_API_KEY=... multigraft
# Arguments after the image's name go to `multigraft serve`.

ARG PYTHON=3.11
ARG DEVICE=cpu
# What is inside: `server`, or `training` for the server and the training package.
ARG PARTS=server

FROM python:${PYTHON}-slim-bookworm AS tools
ENV PATH=/opt/multigraft/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt requirements-bases.txt ./
RUN python -m venv /opt/multigraft
RUN pip install -c constraints.txt hatchling

# PyTorch's own index has the CPU builds. Without TORCH_CPU_INDEX, pip takes what it is set up to find: on Linux that is
# usually the CUDA build, which also runs on a CPU but is several times larger.
FROM tools AS torch-cpu
ARG TORCH_CPU_INDEX
RUN pip install -c constraints.txt ${TORCH_CPU_INDEX:+--extra-index-url ${TORCH_CPU_INDEX}} torch

# On Linux the plain torch of the package index is the CUDA build, with the CUDA libraries as packages.
FROM tools AS torch-cuda
RUN pip install -c constraints.txt torch

FROM torch-${DEVICE} AS parts-server
ENV EXTRAS=server,postgresql
COPY pyproject.toml README.md LICENSE ./
COPY adapters/ adapters/
COPY server/ server/

FROM parts-server AS parts-training
ENV EXTRAS=server,postgresql,training
COPY training/ training/

FROM parts-${PARTS} AS build
RUN pip install -c constraints.txt --no-build-isolation ".[${EXTRAS}]"
RUN pip install --no-deps --require-hashes -r requirements-bases.txt

# The kernels are compiled for bfloat16 on x86 with matrix tiles, and used where the processor has them.
FROM build AS compiled
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev libgomp1
RUN if [ "$(uname -m)" = x86_64 ]; then python -m multigraft_server.engine.kernels; fi

FROM python:${PYTHON}-slim-bookworm
ARG REVISION=unknown
LABEL org.opencontainers.image.title="multigraft" \
      org.opencontainers.image.description="Serves many fine-tuned tasks from one frozen base model, in one batch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 multigraft \
 && useradd --uid 10001 --gid multigraft --no-log-init --home-dir /data --shell /usr/sbin/nologin multigraft \
 && install --directory --owner=multigraft --group=multigraft /data
# The code stays root's: the server can write its data folder and nothing else.
COPY --from=compiled --chown=root:root /opt/multigraft /opt/multigraft
ENV PATH=/opt/multigraft/bin:$PATH PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8100
STOPSIGNAL SIGTERM
# The first start dequantises the base into the data folder, which takes half a minute.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8100/health/ready', timeout=4)"]
# It listens beyond loopback, so it refuses to start without MULTIGRAFT_API_KEY.
ENTRYPOINT ["multigraft", "serve", "--host", "0.0.0.0", "--data-dir", "/data"]
