"""Is the compiled core built, and with what flags. Everything else is in pyproject.toml."""

import glob
import os
import sys

from setuptools import Distribution, Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = "src/forksafe_core/"
NATIVE = HERE + "native/"
FORK_HERE = hasattr(os, "fork") and sys.implementation.name == "cpython"
FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
FLAGS += os.environ.get("FORKSAFE_CFLAGS", "").split()

LOCK_WORD = [NATIVE + "lock_word.c", NATIVE + "parking.c", NATIVE + "context_methods.c"]
SOURCES = {
    "_atfork": [NATIVE + "fork_state.c", NATIVE + "descriptors.c"],
    "_locks": [*LOCK_WORD, NATIVE + "fast_new.c", NATIVE + "lock_tracking.c"],
    "_local": [],
    "_per_process": [],
    "_slots": [NATIVE + "parking.c"],
    "_checkout": [NATIVE + "context_methods.c"],
    "_futures": [*LOCK_WORD, NATIVE + "semaphore_word.c"],
    "_semaphores": [*LOCK_WORD, NATIVE + "semaphore_word.c", NATIVE + "permits.c"],
}
PURE = {"_slots", "_checkout"}  # compiled from pure/, which is also what runs where nothing is compiled

ADVICE = """
forksafe: its compiled core could not be built, and a platform with fork needs it.
Install a C compiler and Python's headers, then try again:
    Debian, Ubuntu   apt install gcc libc6-dev python3-dev
    Fedora, RHEL     dnf install gcc python3-devel
    Alpine           apk add gcc musl-dev linux-headers python3-dev
    macOS            xcode-select --install
The compiler's own message is above.
"""


class BuildCore(build_ext):
    def run(self):
        try:
            super().run()
        except Exception as error:
            raise SystemExit(f"{error}\n{ADVICE}") from error


class PlatformDistribution(Distribution):
    """Wheels carry a platform tag even where nothing is compiled: the pure core is for platforms without fork."""

    def has_ext_modules(self):
        return True


class PlatformWheel(bdist_wheel):
    def get_tag(self):
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if FORK_HERE else ("py3", "none", platform)


def extensions():
    if not FORK_HERE:
        return []
    from Cython.Build import cythonize

    modules = [
        Extension(
            f"forksafe_core.{name}",
            [f"{HERE}pure/{name[1:]}.py" if name in PURE else f"{HERE}{name}.pyx", *sources],
            include_dirs=[NATIVE],
            extra_compile_args=FLAGS,
            extra_link_args=os.environ.get("FORKSAFE_LDFLAGS", "").split(),
            depends=glob.glob(NATIVE + "*.[ch]"),
        )
        for name, sources in SOURCES.items()
    ]
    directives = {
        "language_level": 3,
        "embedsignature": True,
        "embedsignature.format": "clinic",
        "freethreading_compatible": True,
        "binding": False,
    }
    options = {"build_dir": "build/cython", "include_path": ["src"], "compiler_directives": directives}
    pure = [module for module in modules if module.name.rpartition(".")[2] in PURE]
    others = [module for module in modules if module not in pure]
    return cythonize(others, **options) + cythonize(pure, force=True, **options)  # it overlooks changes of their .pxd


setup(
    packages=[*find_packages("src"), "forksafe.examples"],
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildCore, "bdist_wheel": PlatformWheel},
    distclass=PlatformDistribution,
)
