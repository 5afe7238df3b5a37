# Not run by the project so far, and linted. The command `scaleeq` on a CPU:
#
#     docker build -t scaleeq .
#     docker run --rm -v "$PWD/output:/home/scaleeq/output" scaleeq train quickstart
#
# For a GPU, begin with an image that has CUDA and a torch for it: --build-arg BASE=...
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /opt/scaleeq
COPY setup.py README.md ./
COPY projects projects
COPY configs configs
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[reports,tensorboard,pretrained]"
RUN useradd --create-home --uid 1000 scaleeq
USER 1000
WORKDIR /home/scaleeq
ENTRYPOINT ["scaleeq"]
