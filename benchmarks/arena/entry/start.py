"""What the image runs: the server on port 8080, and on 8081 with TLS where the arena has mounted a certificate.

Two servers, because with a certificate every address of a fastserve is https. Signals are handed on; when one ends, so does
the other. PORT, TLS_PORT and CERTS are for trying it elsewhere.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

CERTS = Path(os.environ.pop("CERTS", "/certs"))
PORT, TLS_PORT = os.environ.pop("PORT", "8080"), os.environ.pop("TLS_PORT", "8081")
HOST = "0.0.0.0"
WORDS = ("fastserve", "app:app", "--host", HOST, "--workers", "auto", "--no-access-log", "--log-level", "warning")


def commands() -> list[list[str]]:
    plain = [*WORDS, "--port", PORT]
    certificate, key = CERTS / "server.crt", CERTS / "server.key"
    if not certificate.exists():
        return [plain]
    tls = [*WORDS, "--port", TLS_PORT, "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    return [plain, tls]


def main() -> int:
    children = [subprocess.Popen(words) for words in commands()]

    def stop(*_: object) -> None:
        for child in children:
            child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    pid, status = os.wait()
    first = next(child for child in children if child.pid == pid)
    first.returncode = os.waitstatus_to_exitcode(status)
    stop()
    return max(child.wait() for child in children)


if __name__ == "__main__":
    sys.exit(main())
