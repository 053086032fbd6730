"""Tests of the image, as Kubernetes runs it."""
