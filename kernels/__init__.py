"""Templates, code generators and build tools per device. Installed, and to be imported, as `fusec.kernels`."""

if __name__ == "kernels":  # found through the repository's root: classes would exist twice
    raise ImportError("import this package as fusec.kernels")
