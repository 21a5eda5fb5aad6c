# Two stages from one base. What runs has neither compiler nor build tools, needs no shell, and writes to one folder only.
# Everything that is installed is pinned by hash; to pin the base image too, pass its digest:
#   docker build --build-arg PYTHON_IMAGE=docker.io/library/python@sha256:... .
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/sidecar && python3 -m venv --without-pip /build/tools
COPY requirements-image.lock requirements-build.lock ./
RUN python3 -m pip --python /opt/sidecar/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements-image.lock \
 && python3 -m pip --python /build/tools/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY sidecar ./sidecar
COPY deploy ./deploy
# Byte code is never checked again: the root filesystem may be read-only, and modification times are meaningless.
RUN python3 -m pip --python /build/tools/bin/python wheel --no-deps --no-build-isolation --no-index -w dist . \
 && python3 -m pip --python /opt/sidecar/bin/python install --no-compile --no-deps --no-index dist/*.whl \
 && PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash /opt/sidecar/lib \
 && mkdir -m 0700 /build/data

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="auth-sidecar" \
      org.opencontainers.image.description="Authentication sidecar for metadata servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/sidecar /opt/sidecar
# Keys cached on disk and the SQLite store; all else stays as it is in the image.
COPY --from=build --chown=65532:65532 /build/data /var/lib/sidecar
ENV PATH=/opt/sidecar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SIDECAR_CONFIG=/etc/sidecar/config.yaml
USER 65532:65532
WORKDIR /var/lib/sidecar
VOLUME ["/var/lib/sidecar"]
EXPOSE 4180 4181
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["sidecar", "health"]
ENTRYPOINT ["sidecar"]
CMD ["serve"]
