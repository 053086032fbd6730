# The bridge alone: without the demo and its packages, and without build tools.
# The tag moves with Debian's security updates. A release names what it was built on: tag@sha256:digest.
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# With a time in seconds, the same sources give the same files: pip then compiles without the times of files.
ARG SOURCE_DATE_EPOCH
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# requirements-msk.txt for Amazon MSK with IAM, requirements-registry.txt for a schema registry.
ARG REQUIREMENTS=requirements.txt
COPY ${REQUIREMENTS} requirements-build.txt ./
# Wheels only: to build from source, pip would fetch build dependencies that no hash pins.
RUN python -m venv /tools \
    && /tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt \
    && python -m venv --without-pip /opt/digifinex-bridge \
    && /tools/bin/pip --python /opt/digifinex-bridge/bin/python install --require-hashes --only-binary :all: -r "${REQUIREMENTS}"
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY bridge bridge
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /tools/bin/pip --python /opt/digifinex-bridge/bin/python install --no-deps --no-index /wheels/*.whl
COPY scripts/sbom.py ./
RUN /tools/bin/python sbom.py /opt/digifinex-bridge/lib/python*/site-packages /opt/digifinex-bridge/sbom.cdx.json

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG SOURCE_DATE_EPOCH
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="digifinex-bridge" \
      org.opencontainers.image.description="Streams every update of the DigiFinex WebSocket API to Kafka: normalised, in order, exactly once." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The maintainers of digifinex-bridge" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 bridge \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bridge \
    && install --directory --owner 10001 --group 0 --mode 0770 /var/lib/digifinex-bridge \
    && python -m pip uninstall --yes --root-user-action ignore pip
COPY --from=build /opt/digifinex-bridge /opt/digifinex-bridge
ENV PATH="/opt/digifinex-bridge/bin:${PATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes can verify that it is not root. Any other number will do, if its group is 0, as
# OpenShift chooses it.
USER 10001:10001
# The spool is here unless the configuration says otherwise: mount a volume.
WORKDIR /var/lib/digifinex-bridge
EXPOSE 9464
STOPSIGNAL SIGTERM
# No HEALTHCHECK: the OCI image format does not have it. Use /healthz and /readyz as the orchestrator's probes.
ENTRYPOINT ["digifinex-bridge"]
CMD ["run", "--config", "/etc/digifinex-bridge/bridge.toml"]
