"""The optional extension: kernels of our own for CPUs. Everything else about the package is in ``pyproject.toml``.

Without a compiler, or with one that does not know GCC's vector extensions, the package installs without it.
"""

from glob import glob

from setuptools import Extension, setup

FOLDER = "dyvision/ops/native"

setup(
    ext_modules=[
        Extension(
            "dyvision.ops.native._kernels",
            sources=sorted(glob(f"{FOLDER}/*.c")),
            depends=sorted(glob(f"{FOLDER}/*.h")),
            # no -march: each instruction set is chosen when the program runs; no -ffast-math: NaN has to stay NaN
            extra_compile_args=["-O3", "-g0", "-pthread"],
            extra_link_args=["-pthread"],
            # it is called through ctypes and knows nothing of Python: one binary for all versions
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
