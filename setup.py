"""The list of extension modules, and the C core that is linked into each of them; nothing else.

The core is compiled once, into a static library. The linker takes from it only what a module calls.
Static metadata is in pyproject.toml. Environment switches:
  FASTSERVE_DEBUG=1        assertions in C, no optimisation
  FASTSERVE_SANITIZE=1     AddressSanitizer and UndefinedBehaviorSanitizer
  FASTSERVE_ANNOTATE=1     write the annotated HTML of every .pyx
  FASTSERVE_BUILD_JOBS=n   extensions compiled at a time; by default one per processor
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = [
    "protocol.core",
    "protocol.limits",
    "protocol.forwarded",
    "protocol.channel",
    "protocol.headers",
    "protocol.request",
    "protocol.response",
    "protocol.timers",
    "protocol.board",
    "protocol.wire",
    "protocol.driver",
    "protocol.lens",
    "protocol.exchange",
    "protocol.files",
    "protocol.hooks",
    "protocol.service",
    "protocol.websocket",
    "protocol.connection",
    "interfaces.call",
    "interfaces.static",
    "interfaces.asgi_event",
    "interfaces.asgi_websocket",
    "interfaces.asgi",
    "interfaces.relay",
    "interfaces.native",
    "interfaces.wsgi",
    "interfaces.bridge",
    "telemetry.line_writer",
    "telemetry.access_log",
    "telemetry.lens.memory",
    "telemetry.lens.recorder",
    "telemetry.lens.watchdog",
    "process.lifeline",
]


def switch(name: str) -> bool:
    return os.environ.get(f"FASTSERVE_{name}", "") not in ("", "0")


compile_args = ["-std=c11", "-fvisibility=hidden"]
link_args: list[str] = []
if switch("DEBUG"):
    compile_args += ["-O0", "-g3", "-DFS_ASSERTIONS"]
else:
    compile_args += ["-O3"]
if switch("SANITIZE"):
    flags = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]
    compile_args += [*flags, "-DFS_ASSERTIONS"]
    link_args += flags

SOURCES, HEADERS = (sorted(str(path) for path in Path("csrc").glob(f"*.{end}")) for end in "ch")
JOBS = int(os.environ.get("FASTSERVE_BUILD_JOBS") or os.cpu_count() or 1)

warnings = ["-Wall", "-Wextra"]
core = {"sources": SOURCES, "obj_deps": {"": ["setup.py", *HEADERS]}, "cflags": [*compile_args, *warnings]}

extensions = [
    Extension(
        f"fastserve.{name}",
        [f"fastserve/{name.replace('.', '/')}.pyx"],
        include_dirs=["csrc"],
        depends=["setup.py", *HEADERS, *SOURCES],
        extra_compile_args=[*compile_args, "-Wno-unused-function", "-Wno-unreachable-code"],  # Cython's habits
        extra_link_args=link_args,
    )
    for name in MODULES
]


class core_first(build_ext):
    """`build` makes the library before the extensions; here `build_ext --inplace` alone does so too."""

    def run(self) -> None:
        self.run_command("build_clib")
        super().run()


setup(
    libraries=[("fastserve_core", core)],
    ext_modules=cythonize(
        extensions,
        annotate=switch("ANNOTATE"),
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "nonecheck": True,  # a mistake of ours is an AttributeError, never a crash of the worker
            "embedsignature": True,
            "auto_pickle": False,
            "freethreading_compatible": False,
        },
    ),
    cmdclass={"build_ext": core_first},
    options={"build_ext": {"parallel": JOBS}},
)
