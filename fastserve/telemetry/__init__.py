"""Side wing: what watches exchanges. See ARCHITECTURE.md."""

from fastserve.telemetry.access_log import AccessLog, parse_format
from fastserve.telemetry.line_writer import LineWriter

__all__ = ["AccessLog", "LineWriter", "parse_format"]
