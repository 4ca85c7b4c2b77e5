"""What Prometheus and an orchestrator ask the running agent: metrics, is it alive, is it ready."""
