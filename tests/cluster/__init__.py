"""Tests of the Helm chart on a real Kubernetes API server: `make cluster`, not `make test`."""
