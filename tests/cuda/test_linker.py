"""Modules of several bodies: units that are compiled and kept one by one, and linked."""

from __future__ import annotations

import pytest
from cuda_regions import body

from fusec.cache import ObjectCache
from fusec.errors import CompileError
from fusec.kernels.cuda import libraries, linker, lint, nvrtc
from fusec.kernels.cuda.module import module_text
from fusec.kernels.kernel import Source

pytestmark = pytest.mark.skipif(not nvrtc.is_installed(), reason="NVRTC or nvJitLink is not installed")


def large(name: str) -> Source:
    """A body that holds about 100 values in registers."""
    text = """
        float x[100];
        FX_UNROLL for (int i = 0; i < 100; i++) x[i] = fx_pointer<float>(task, 0)[i * 256 + fx_thread()];
        fx_barrier();
        FX_UNROLL for (int i = 0; i < 100; i++) fx_pointer<float>(task, 1)[i * 256 + fx_thread()] = x[149 - i];
    """
    return body(name, text)


def small(name: str) -> Source:
    return body(name, f"fx_pointer<float>(task, 0)[fx_thread()] = {len(name)}.f;")


@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_the_kernel_has_the_registers_of_what_it_calls(level: str) -> None:
    few = nvrtc.build(module_text([small("fusec_a"), small("fusec_bc")]), level)
    many = nvrtc.build(module_text([small("fusec_a"), large("fusec_large")]), level)
    assert lint.problems(few) == lint.problems(many) == ()
    assert lint.usage(few.log)["fusec_region"].registers <= 64
    assert lint.usage(many.log)["fusec_region"].registers >= 100


def test_a_body_that_is_kept_is_not_compiled_again(tmp_path, monkeypatch) -> None:
    cache, compiled = ObjectCache(tmp_path), list[str]()
    compile_text = nvrtc.compile_text

    def counted(text: str, flags: tuple[str, ...]) -> nvrtc.Cubin:
        compiled.append(text)
        return compile_text(text, flags)

    monkeypatch.setattr(nvrtc, "compile_text", counted)
    first = nvrtc.build(module_text([small("fusec_a"), small("fusec_bc")]), "sm_80", cache)
    assert len(compiled) == 3
    assert nvrtc.build(module_text([small("fusec_a"), small("fusec_bc")]), "sm_80", cache) == first
    assert len(compiled) == 3
    nvrtc.build(module_text([small("fusec_a"), small("fusec_bc"), small("fusec_def")]), "sm_80", cache)
    assert len(compiled) == 5  # the third body and the kernel


@pytest.mark.parametrize("level", ["sm_80", "sm_90"])
def test_dynamic_shared_memory_begins_where_a_swizzle_does(level: str) -> None:
    """The linker places it behind the static part and does not look at its alignment."""
    text = "((float*)fx_shared_memory())[fx_thread()] = 1.f; fx_barrier();"
    for names in (["fusec_a"], ["fusec_a", "fusec_bc"]):
        cubin = nvrtc.build(module_text([body(name, text) for name in names]), level)
        own = lint.usage(cubin.log)["fusec_region"].shared
        assert own in (1024, 2048)  # from 9.0 on the system has the first 1024
        assert lint.problems(cubin) == ()
    log = "Function properties for k\nptxas info : Used 32 registers, 1152 bytes smem"
    assert "begins at byte 1152" in lint.problems(nvrtc.Cubin(b"", log))[0]


def test_parts_that_do_not_fit_are_refused() -> None:
    *_, kernel = module_text([small("fusec_a"), small("fusec_bc")]).units
    alone = nvrtc.compile_text(kernel, nvrtc.options("sm_80", linked=True))
    with pytest.raises(CompileError, match=r"nvJitLink refuses a module: .*fusec_a_called"):
        linker.link([alone.code], "sm_80")
    with pytest.raises(CompileError, match="nvJitLink cannot link for sm_12"):
        linker.link([alone.code], "sm_12")
    with pytest.raises(CompileError, match="nvJitLink refuses a module"):
        linker.link([b"no machine code"], "sm_80")


def test_a_missing_linker_is_an_error_with_what_to_install(monkeypatch) -> None:
    linker._linker_or_why.cache_clear()
    monkeypatch.setattr(libraries, "candidates", lambda stem: iter(()))
    try:
        assert not linker.is_installed()
        assert not nvrtc.is_installed()
        with pytest.raises(CompileError, match="no libnvJitLink among"):
            linker.version()
    finally:
        linker._linker_or_why.cache_clear()


def test_a_library_that_cannot_be_loaded_is_named(tmp_path, monkeypatch) -> None:
    broken = tmp_path / "libnvJitLink.so.13"
    broken.write_bytes(b"nothing")
    monkeypatch.setattr(libraries, "candidates", lambda stem: iter((str(broken), "libnothing.so")))
    found, why = libraries.first("nvJitLink", linker.Linker)
    assert found is None
    assert str(broken) in why
