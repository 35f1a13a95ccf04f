"""Many sessions over one module: a C++ compiler takes a second for each, and little longer for all kernels of a test."""

from __future__ import annotations

from collections.abc import Sequence

from fusec.kernels import backend
from fusec.plan.plan import Plan
from fusec.runtime.device.code import Modules, RegionCode, kernels_of
from fusec.runtime.device.opened import open_target
from fusec.runtime.device.session import DeviceSession
from fusec.schedule.region import BoundRegion
from fusec.target import Target


class SharedModule(Modules):
    """One module with the kernels of many plans."""

    def __init__(self, plans: Sequence[Plan], target: Target) -> None:
        super().__init__(plans[0], open_target(target), None)
        maker = backend.device(target.kind)
        kernels = [k for p in plans for k in kernels_of(p, p.steps)]
        built = maker.build_module(kernels, target, None)
        self.code = RegionCode(self._opened.device.load(built.code, built.entry), built.bodies)
        self.plans = plans  # class keys are kept by the identity of kernels

    def of(self, region: BoundRegion) -> RegionCode:
        return self.code

    def prepare(self) -> None:
        pass

    def session(self, plan: Plan, **options) -> DeviceSession:
        return DeviceSession(plan, opened=self._opened, modules=self, **options)
