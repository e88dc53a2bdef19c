"""Types of limits.pyx."""

class Limits:
    def __new__(
        cls,
        *,
        request_line_bytes_max: int = 8192,
        head_bytes_max: int = 65536,
        fields_max: int = 100,
        leading_crlf_max: int = 4,
        body_bytes_max: int | None = None,
        chunk_ext_bytes_max: int = 16384,
        trailer_bytes_max: int = 16384,
        drain_bytes_max: int = 65536,
        header_timeout: float = 15.0,
        body_timeout: float = 30.0,
        write_timeout: float = 30.0,
        request_timeout: float = 0.0,
        keep_alive_timeout: float = 75.0,
        linger_timeout: float = 5.0,
        rate_min: int = 240,
        rate_grace: float = 30.0,
        concurrency_max: int = 0,
        connections_max: int = 0,
        peer_connections_max: int = 0,
        buffers_max: int = 8388608,
        shed_after: float = 0.0,
        body_buffer_max: int = 65536,
        pipeline_bytes_max: int = 65536,
        linger_bytes_max: int = 16777216,
        message_bytes_max: int = 16777216,
        message_queue_max: int = 32,
        ping_interval: float = 20.0,
        ping_timeout: float = 20.0,
        close_timeout: float = 10.0,
        per_message_deflate: bool = True,
    ) -> Limits: ...
    @property
    def head_bytes_max(self) -> int: ...
    @property
    def body_bytes_max(self) -> int | None: ...
    @property
    def header_timeout(self) -> float: ...
    @property
    def body_timeout(self) -> float: ...
    @property
    def write_timeout(self) -> float: ...
    @property
    def keep_alive_timeout(self) -> float: ...
    @property
    def linger_timeout(self) -> float: ...
    @property
    def request_timeout(self) -> float: ...
    @property
    def rate_min(self) -> int: ...
    @property
    def rate_grace(self) -> float: ...
    @property
    def concurrency_max(self) -> int: ...
    @property
    def connections_max(self) -> int: ...
    @property
    def peer_connections_max(self) -> int: ...
    @property
    def buffers_max(self) -> int: ...
    @property
    def shed_after(self) -> float: ...
    @property
    def body_buffer_max(self) -> int: ...
    @property
    def pipeline_bytes_max(self) -> int: ...
    @property
    def linger_bytes_max(self) -> int: ...
    @property
    def ping_interval(self) -> float: ...
    @property
    def ping_timeout(self) -> float: ...
    @property
    def close_timeout(self) -> float: ...
    @property
    def message_bytes_max(self) -> int: ...
    @property
    def message_queue_max(self) -> int: ...
    @property
    def per_message_deflate(self) -> bool: ...
