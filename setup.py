"""The list of extension modules, and the C core that is linked into each of them; nothing else.

The core is compiled once, into a static library. The linker takes from it only what a module calls.
Static metadata is in pyproject.toml. Environment switches:
  FASTSERVE_DEBUG=1        assertions in C, no optimisation
  FASTSERVE_SANITIZE=1     AddressSanitizer and UndefinedBehaviorSanitizer
  FASTSERVE_LTO=1          optimise across files when linking: each module with its part of the core
  FASTSERVE_PROFILE=make   gcc: count, while it runs, what is executed how often, into build/profile
  FASTSERVE_PROFILE=use    gcc: optimise by what was counted (`make pgo` is the whole of it)
  FASTSERVE_ANNOTATE=1     write the annotated HTML of every .pyx
  FASTSERVE_BUILD_JOBS=n   extensions compiled at a time; by default one per processor
"""

import os
import shlex
import subprocess
import sysconfig
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
    "process.witness",
]


def switch(name: str) -> bool:
    return os.environ.get(f"FASTSERVE_{name}", "") not in ("", "0")


def choice(name: str, *values: str) -> str:
    value = os.environ.get(f"FASTSERVE_{name}", "")
    if value not in ("", *values):
        raise SystemExit(f"setup.py: FASTSERVE_{name} must be {' or '.join(values)}, not {value!r}")
    return value


def whole(name: str, default: int) -> int:
    value = os.environ.get(f"FASTSERVE_{name}") or str(default)
    if not value.isdecimal():
        raise SystemExit(f"setup.py: FASTSERVE_{name} must be a whole number, not {value!r}")
    return int(value)


def is_gcc() -> bool:
    words = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    try:
        told = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise SystemExit(f"setup.py: {words[0]}: {error.strerror}") from None
    return "Free Software Foundation" in told


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

JOBS = whole("BUILD_JOBS", os.cpu_count() or 1)
LTO, PROFILE = choice("LTO", "0", "1") == "1", choice("PROFILE", "make", "use")
PROFILES = Path("build/profile").resolve()
core_args: list[str] = []
if (LTO or PROFILE) and (switch("DEBUG") or switch("SANITIZE")):
    raise SystemExit(
        "setup.py: FASTSERVE_LTO and FASTSERVE_PROFILE do not go with FASTSERVE_DEBUG and FASTSERVE_SANITIZE"
    )
GCC = is_gcc() if LTO or PROFILE else False
if LTO:
    flag = "-flto=auto" if GCC else "-flto"  # gcc warns of one processor without `auto`, and zig does not take it
    compile_args += [flag]
    link_args += [flag, "-O3"]
    core_args += ["-ffat-lto-objects"] if GCC else []  # an ar that knows nothing of it lists their names, too
if PROFILE and not GCC:
    raise SystemExit("setup.py: FASTSERVE_PROFILE needs gcc as CC")
if PROFILE == "make":
    flags = [f"-fprofile-generate={PROFILES}", "-fprofile-update=atomic"]
    compile_args += flags
    link_args += flags
elif PROFILE == "use":
    if not any(PROFILES.glob("*.gcda")):
        raise SystemExit(
            "setup.py: FASTSERVE_PROFILE=use: nothing in build/profile: `make pgo` builds, trains and uses"
        )
    # What was not trained is optimised as without a profile, not for size.
    compile_args += [f"-fprofile-use={PROFILES}", "-fprofile-partial-training", "-Wno-missing-profile"]

FLAGS = Path("build/flags")  # a change of what it holds makes everything anew
told = "\n".join([*compile_args, *core_args, *link_args])
if not FLAGS.exists() or FLAGS.read_text() != told:
    FLAGS.parent.mkdir(exist_ok=True)
    FLAGS.write_text(told)

SOURCES, HEADERS = (sorted(str(path) for path in Path("csrc").glob(f"*.{end}")) for end in "ch")

warnings = ["-Wall", "-Wextra"]
core = {
    "sources": SOURCES,
    "obj_deps": {"": ["setup.py", str(FLAGS), *HEADERS]},
    "cflags": [*compile_args, *core_args, *warnings],
}

extensions = [
    Extension(
        f"fastserve.{name}",
        [f"fastserve/{name.replace('.', '/')}.pyx"],
        include_dirs=["csrc"],
        depends=["setup.py", str(FLAGS), *HEADERS, *SOURCES],
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
