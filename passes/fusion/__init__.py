"""Rules of fusion, one a file: which edges may close, and why not."""
