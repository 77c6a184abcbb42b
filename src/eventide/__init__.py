"""Eventide: language-model inference as one persistent kernel, with Event Tensors as its intermediate representation."""

from __future__ import annotations

__version__ = "0.1.0"
