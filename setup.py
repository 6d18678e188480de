"""Build the optional C kernels; everything else about the project stands in pyproject.toml.

Without a C compiler the build goes on and the NumPy reference of the kernels runs (`mvc.codecs.kernels`).
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "mvc.codecs.kernels._native",
            sources=["mvc/codecs/kernels/_native.c"],
            depends=["mvc/codecs/kernels/_words.h", "mvc/codecs/kernels/_sparse.h"],
            extra_compile_args=["-O3", "-g0", "-Wall", "-Wextra"],
            py_limited_api=True,  # one wheel for CPython 3.11 and later
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
