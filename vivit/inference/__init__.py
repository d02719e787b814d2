"""Predictions from video files."""
