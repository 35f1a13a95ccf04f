"""The `fusec` command: one file per verb, imported only when it is used, so that `fusec --help` is instant."""
