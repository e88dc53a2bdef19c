"""Fail unless every module of a wheel is for its processor and needs nothing that its platform does not promise.

Called by .ci/wheels, in an environment with pyelftools: `check_wheel.py WHEEL MACHINE`. manylinux_2_17 promises glibc 2.17
(PEP 599); what a module needs of it stands in its table of versions.
"""

import io
import re
import sys
import zipfile

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

GLIBC = (2, 17)
LIBRARIES = {"libc.so.6", "libpthread.so.0", "libm.so.6", "libdl.so.2", "librt.so.1"}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}


def faults(name: str, data: bytes, machine: str) -> list[str]:
    """What is wrong with one module."""
    file = ELFFile(io.BytesIO(data))
    found = []
    if file["e_machine"] != MACHINES[machine]:
        found.append(f"is for {file['e_machine']}")
    if not name.endswith(f"-{machine}-linux-gnu.so"):
        found.append("has the name of another platform")
    for section in file.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                    found.append("looks for libraries in a folder of the machine that built it")
                if tag.entry.d_tag == "DT_NEEDED" and tag.needed not in {*LIBRARIES, LOADERS[machine]}:
                    found.append(f"needs {tag.needed}")
        if isinstance(section, GNUVerNeedSection):
            for _, versions in section.iter_versions():
                for version in versions:
                    number = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", version.name)
                    if number is None or (int(number[1]), int(number[2])) > GLIBC:
                        found.append(f"needs {version.name}")
    return found


def main(path: str, machine: str) -> int:
    wrong, modules = [], 0
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if name.endswith(".so"):
                modules += 1
                wrong += [f"{name} {fault}" for fault in faults(name, wheel.read(name), machine)]
    print("\n".join(wrong) or f"{path.rpartition('/')[2]}: {modules} modules for {machine}, glibc 2.17")
    return 1 if wrong or not modules else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
