"""The worker's HTTP server: probes, health and metrics, for operations."""

from lapse.http.app import ROUTES, WorkerApp
from lapse.http.server import serving

__all__ = ["ROUTES", "WorkerApp", "serving"]
