"""Runs CUDA modules on the CPU: the same text through a C++ compiler, every thread a fiber."""
