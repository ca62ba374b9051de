"""humandata: one store for every human pose and shape dataset, and the engine that trains from it."""

from __future__ import annotations
