"""Packages, extras and entry points; everything else about the project is in pyproject.toml."""

from setuptools import find_packages, setup

# kernels/ and passes/ stand at the top of the repository and install as fusec.kernels and fusec.passes
FOLDERS = {"fusec": "fusec", "fusec.kernels": "kernels", "fusec.passes": "passes"}
PACKAGES = sorted({p for name, top in FOLDERS.items() for p in (name, *(f"{name}.{s}" for s in find_packages(top)))})

CORE = [
    "numpy>=1.26",
    "onnx>=1.21",
    "networkx>=3.2",
    "llvmlite>=0.44",
    "numba>=0.61",
    "ml-dtypes>=0.5",
    "msgspec>=0.19",
    "safetensors>=0.5",
    "click>=8.1",
    "rich>=13",
    "platformdirs>=4",
]
CUDA = ["cupy-cuda13x>=13.6", "nvidia-cuda-nvrtc>=13,<14", "nvidia-nvjitlink>=13,<14"]
CUDA_12 = [  # for drivers before 580
    "cupy-cuda12x>=13.3",
    "nvidia-cuda-nvrtc-cu12>=12.4",
    "nvidia-nvjitlink-cu12>=12.4",
]
BENCH = ["onnxruntime>=1.20", "threadpoolctl>=3.5"]
RIVALS = [*BENCH, "openvino>=2024.4"]
TEST = [
    *BENCH,
    *CUDA,  # modules are compiled for GPUs and CuPy's names are compared, both without a device
    "nvidia-cuda-nvdisasm>=13,<14",  # reads what was compiled
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "mypy>=1.15",
    "ruff>=0.9",
    "import-linter>=2.1",
    "types-networkx",
    "setuptools>=65",
    "wheel",
]

setup(
    name="fusec",
    version="0.1.0",
    description="Compile ONNX models into persistent-thread kernels that fuse across matrix products",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir=FOLDERS,
    packages=PACKAGES,
    package_data={
        "fusec": ["py.typed"],
        "fusec.kernels.cuda": ["device/*.cuh"],
        "fusec.kernels.cuda.emulator": ["*.h", "*.cpp"],
    },
    install_requires=CORE,
    extras_require={
        "cuda": CUDA,
        "cuda12": CUDA_12,
        "bench": BENCH,
        "rivals": RIVALS,
        "plots": ["matplotlib>=3.8"],
        "test": TEST,
    },
    entry_points={"console_scripts": ["fusec = fusec.cli.main:main"]},
)
