"""The catalogue of ops: one record per op with its kind, type rule, numpy reference and scalar body."""
