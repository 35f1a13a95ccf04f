"""The CPU back end: tile programs become LLVM IR text (emit), objects (build) and addresses (load)."""
