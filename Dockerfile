# pgsluice: one binary on a slim Debian, as a user without rights.
#
#   docker build -t pgsluice .
#   docker run --rm -p 6432:6432 -p 9630:9630 -v ./pgsluice.toml:/etc/pgsluice/pgsluice.toml:ro pgsluice
#
# In a container the config's [listen] and [http] addresses must be 0.0.0.0, not 127.0.0.1, or nothing
# outside the container reaches them.

# Both stages are Debian 12, so that the binary finds the C library that it was linked against.
FROM rust:1-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock README.md ./
COPY benches ./benches
COPY src ./src
COPY config ./config
# The caches hold the registry and the compiled dependencies between builds; the binary is copied out
# because a cache is not part of the layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin pgsluice \
    && cp target/release/pgsluice /usr/local/bin/pgsluice

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="pgsluice" \
      org.opencontainers.image.licenses="Apache-2.0"
# Numbers and not names, so that Kubernetes can check runAsNonRoot.
RUN groupadd --system --gid 10001 pgsluice \
    && useradd --system --uid 10001 --gid pgsluice --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin \
       pgsluice \
    && install -d -o root -g pgsluice -m 0750 /etc/pgsluice
COPY --from=build /usr/local/bin/pgsluice /usr/local/bin/pgsluice
USER 10001:10001
# 6432: PostgreSQL protocol. 9630: /metrics, /healthz, /readyz.
EXPOSE 6432 9630
# The image has no curl; bash opens the connection itself. Healthy is a 200 from /healthz on the default
# port; where [http] address has another port, set PGSLUICE_HTTP_PORT. Whether the servers behind it are
# there is /readyz's business: a proxy must not be restarted because a primary is away.
ENV PGSLUICE_HTTP_PORT=9630
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${PGSLUICE_HTTP_PORT} && printf 'GET /healthz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == *' 200 '* ]]"]
# SIGTERM drains: give `docker stop` more time than limits.drain_timeout (docker stop --time 40).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/pgsluice"]
CMD ["run", "--config", "/etc/pgsluice/pgsluice.toml"]
