# The commands in a container:
#     docker build -t ttrnn .                                  with a GPU: --build-arg TORCH=cu128, and run with --gpus all
#     docker run --rm -v "$PWD:/work" --shm-size=2g -u "$(id -u)" ttrnn sweep --data VIDEOS --out runs/mine
FROM python:3.11-slim
ARG TORCH=cpu
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/$TORCH
COPY pyproject.toml README.md /src/
COPY ttrnn /src/ttrnn
COPY search_spaces /src/search_spaces
COPY pipelines /src/pipelines
RUN pip install --no-cache-dir '/src[pipelines,onnx]'
WORKDIR /work
ENTRYPOINT ["ttrnn"]
