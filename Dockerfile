# nobrainer as a BIDS App, for CPUs:
#   docker build --tag nobrainer .
#   docker run --rm --network none --user "$(id -u):$(id -g)" \
#     --volume /my/data:/data:ro --volume /my/out:/out nobrainer /data /out participant
FROM python:3.11-slim AS build
# Of the versions that the pins name, PyTorch's own index has the builds for CPUs.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/nobrainer
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
# The wheel brings the model, so that nothing is fetched at run time.
RUN /opt/nobrainer/bin/pip install --constraint constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/nobrainer /opt/nobrainer
# Any user may run this, also one without a home: caches go where all may write.
ENV PATH=/opt/nobrainer/bin:$PATH \
    MPLCONFIGDIR=/tmp/matplotlib \
    NOBRAINER_CACHE=/tmp/nobrainer
RUN useradd --no-create-home --uid 1000 nobrainer
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["nobrainer-bids"]
