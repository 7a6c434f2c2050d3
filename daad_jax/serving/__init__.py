"""Scores images that come over HTTP."""
