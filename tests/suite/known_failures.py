"""Cases of the ONNX suite that fail here, each with the reason. A case that starts to pass must leave this list."""

KNOWN_FAILURES: dict[str, str] = {}
