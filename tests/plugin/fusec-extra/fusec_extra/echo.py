"""A back end: the device `echo` is the CPU under another name, and says what it is asked for."""

from fusec.kernels.backend import get
from fusec.target import Isa, Target


class Echo:
    kind = "echo"
    levels = ("generic",)

    def __init__(self):
        self.cpu = get("cpu")
        self.level = next(n for n in ("generic", "neon") if self.cpu.runs_here(n))
        self.emitted = []

    def runs_here(self, level):
        return True

    def isa(self, level):
        return Isa("echo", 4, 16, False, "", "")

    def class_key(self, kernel, target):
        return "echo " + self.cpu.class_key(kernel, self.inner)

    def emit(self, kernel, target):
        self.emitted.append(kernel.program.name)
        return self.cpu.emit(kernel, self.inner)

    def assembly(self, source, target):
        return self.cpu.assembly(source, self.inner)

    def build_all(self, kernels, target, cache):
        for kernel in kernels:
            self.emit(kernel, target)
        made = self.cpu.build_all(kernels, self.inner, cache)
        return {self.class_key(k, target): made[self.cpu.class_key(k, self.inner)] for k in kernels}

    def load(self, binary):
        return self.cpu.load(binary)

    @property
    def inner(self):
        return Target("cpu", self.level)
