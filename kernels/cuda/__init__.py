"""The CUDA back end: kernels as C++ text on a layer of own primitives, compiled by NVRTC, or by a C++ compiler to be emulated."""
