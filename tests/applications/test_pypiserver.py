"""pypiserver, a real WSGI application, with pip as its client: upload, list, download, install; in threads and on the
loop.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from process.running import Running

NAME, VERSION = "fastserve_sample", "1.0"
WHEEL = f"{NAME}-{VERSION}-py3-none-any.whl"


def make_wheel(folder: Path) -> Path:
    """The smallest wheel there is (the binary distribution format): a module, METADATA, WHEEL, RECORD."""
    info = f"{NAME}-{VERSION}.dist-info"
    files = {
        f"{NAME}.py": b"ANSWER = 42\n" + b"# padding\n" * 20000,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module", params=[4, 0], ids=["threads", "inline"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("packages")
    home = tmp_path_factory.mktemp("home")
    options = f"roots=[{str(folder)!r}], authenticate=[], password_file='.', disable_fallback=True"
    (home / "index.py").write_text(f"import pypiserver\n\napp = pypiserver.app({options})\n")
    # A process of its own: it puts an importer of its vendored packages into sys.meta_path.
    with Running("index:app", "--port", "0", "--threads", str(request.param), cwd=home) as server:
        yield f"http://127.0.0.1:{server.ready().port}", folder
        assert server.stop() == 0


def pip(*arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--isolated", "--no-cache-dir", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pip_installs_from_it(index: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = index
    wheel = make_wheel(tmp_path)
    with wheel.open("rb") as file:
        answer = httpx.post(
            f"{url}/",
            data={":action": "file_upload", "name": NAME, "version": VERSION},
            files={"content": (WHEEL, file, "application/octet-stream")},
        )
    assert answer.status_code == 200, answer.text
    assert (folder / WHEEL).read_bytes() == wheel.read_bytes()
    assert WHEEL in httpx.get(f"{url}/simple/fastserve-sample/").text
    common = ("--index-url", f"{url}/simple/", "--no-deps", f"{NAME}=={VERSION}")
    pip("download", "--dest", str(tmp_path / "downloads"), *common)
    assert (tmp_path / "downloads" / WHEEL).read_bytes() == wheel.read_bytes()
    pip("install", "--target", str(tmp_path / "site"), *common)
    assert (tmp_path / "site" / f"{NAME}.py").read_text().startswith("ANSWER = 42")
