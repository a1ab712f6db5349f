# One image for the four services and the command line: `heimdall serve SERVICE`, `heimdall health`, `heimdall acquire ...`.
# How to run it: docs/deployment.md. Health checks are those of docker-compose.yml, since each service has its own.

FROM docker.io/library/python:3.11-slim-bookworm AS build
WORKDIR /src
RUN ["python", "-m", "venv", "/opt/build"]
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY config config
COPY heimdall heimdall
COPY fetcher_svc fetcher_svc
COPY dsp_svc dsp_svc
COPY storage_svc storage_svc
COPY coordinator_svc coordinator_svc
COPY simulator simulator
# Into an environment without pip and setuptools; wheels only, so that no compiler is needed. To stay small: the packages' own
# tests and the parts of scipy that nothing here imports are left out (100 MB), and bytecode is made only for what the
# programs do import, by starting each of them once. At run time nobody may write there.
RUN set -eu; \
    pip="/opt/build/bin/pip --disable-pip-version-check --no-cache-dir --quiet"; \
    $pip install --constraint constraints.txt setuptools; \
    $pip wheel --no-deps --no-build-isolation --wheel-dir /opt/wheel .; \
    python -m venv --without-pip /opt/heimdall; \
    $pip --python /opt/heimdall/bin/python install --constraint constraints.txt --only-binary :all: --no-compile /opt/wheel/*.whl; \
    cd /opt/heimdall/lib/python3.11/site-packages; \
    find . -type d -name tests -prune -exec rm -rf {} +; \
    for part in cluster integrate interpolate io ndimage odr optimize signal sparse spatial stats; do rm -r "scipy/$part"; done; \
    for program in heimdall.cli coordinator_svc fetcher_svc dsp_svc storage_svc storage_svc.migrate storage_svc.dead_letters \
        simulator; do \
      /opt/heimdall/bin/python -m "$program" --help >/dev/null; \
    done

FROM docker.io/library/python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Heimdall" \
      org.opencontainers.image.description="Records radio signals from many remote receivers at once" \
      org.opencontainers.image.licenses="Apache-2.0"
# A named volume takes its owner from the folder that it is mounted on.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/heimdall --shell /usr/sbin/nologin heimdall && \
    install --directory --owner heimdall --group heimdall --mode 0750 /var/lib/heimdall
COPY --from=build /opt/heimdall /opt/heimdall
ENV PATH=/opt/heimdall/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/heimdall
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["heimdall", "--help"]
