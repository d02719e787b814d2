"""Serve a model over HTTP: predictions, jobs for long videos, explanations, one page."""
