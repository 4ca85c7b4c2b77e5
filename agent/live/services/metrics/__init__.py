"""Metrics, liveness and readiness over HTTP, for Prometheus and orchestrators."""
