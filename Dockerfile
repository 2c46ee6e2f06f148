# CPU:  docker build -t vae_zoo .
# CUDA: docker build -t vae_zoo:cuda --build-arg BASE=pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime .
#       docker run --gpus all --shm-size 8g -v "$PWD:/work" vae_zoo:cuda
ARG BASE=python:3.12-slim
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 PYTHONUNBUFFERED=1

# a base image that brings torch keeps its own
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -c "import torch, torchvision" 2>/dev/null || python -m pip install torch torchvision --index-url "${TORCH_INDEX}"

WORKDIR /opt/vae_zoo
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY hydra_plugins hydra_plugins
COPY vae_zoo vae_zoo
RUN python -m pip install ".[data]"

# runs are written to the folder where the container starts: mount one
WORKDIR /work
CMD ["vae-zoo-train"]
