"""The CUDA back end: C++ text on a layer of own primitives, compiled by NVRTC, or by a C++ compiler to be emulated."""
