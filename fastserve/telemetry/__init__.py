"""Side wing: what watches exchanges. See ARCHITECTURE.md."""

from fastserve.telemetry.access_log import AccessLog

__all__ = ["AccessLog"]
