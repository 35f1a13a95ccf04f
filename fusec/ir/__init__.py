"""The graph IR: symbolic dimensions, types, scalar expressions, the graph, its text form, verifier and interpreter."""
