"""The passes, one a file; their order is in `default`. Installed as `fusec.passes`."""

if __name__ != "fusec.passes":
    raise ImportError(
        f"import this package as 'fusec.passes', not as {__name__!r}: a second copy would have its own registry"
    )
