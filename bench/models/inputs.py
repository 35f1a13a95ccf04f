"""Sensible inputs for the fetched models: deterministic, of the kind that the model was trained on, in two shapes.

Noise in place of speech or text drives networks into saturated or constant outputs, where a comparison shows nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Feeds = dict[str, npt.NDArray[Any]]


def feeds(name: str, seed: int = 0, other: bool = False) -> Feeds:
    """Inputs for a model of `bench.models.fetch`; `other` gives a second shape where dimensions are dynamic."""
    rng = np.random.default_rng(seed)
    if name.startswith("silero"):
        return _silero(name, rng, other)
    if name.startswith("rawi"):
        vocabulary = 236 if "ensemble" in name else 302
        return {"input": rng.integers(1, vocabulary, (4, 50) if other else (1, 100))}
    if name.startswith("surfaces"):
        return {"input": rng.random((256 if other else 1, 4)).astype(np.float32)}
    match name:
        case "basic_pitch_nmp":
            clips = [_speech(rng, 43844, 22050) for _ in range(2 if other else 1)]
            return {"serving_default_input_2:0": np.stack(clips)[..., None]}
        case "magika":
            text = b"import os\nimport sys\n\ndef main(argv):\n    print('hello', argv)\n    return 0\n" * 60
            windows = [np.frombuffer(text[i : i + 2048], np.uint8).astype(np.int32) for i in range(4 if other else 1)]
            return {"bytes": np.stack(windows)}
        case "minilm_l6_int8":
            return _tokens(rng, *((8, 64) if other else (1, 128)))
        case "ppocr_cls":
            return {"x": _text_lines(rng, (1 if other else 6, 3, 48, 192))}
        case "ppocrv4_det":
            return {"x": _text_lines(rng, (1, 3, 352, 480) if other else (1, 3, 320, 320))}
        case "ppocrv4_rec":
            return {"x": _text_lines(rng, (2, 3, 48, 480) if other else (1, 3, 48, 320))}
        case "caustic_painn_gnn":
            return _molecule(rng, *((400, 40) if other else (120, 16)))
    raise KeyError(name)


def _speech(rng: np.random.Generator, samples: int, rate: int) -> npt.NDArray[np.float32]:
    """A voiced sound: harmonics of a wavering pitch under a slow envelope, and a little noise."""
    t = np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(6 * np.pi * t)) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.5 + 0.5 * np.sin(8 * np.pi * t))
    return (0.1 * voice + rng.normal(0, 0.003, samples)).astype(np.float32)


def _silero(name: str, rng: np.random.Generator, other: bool) -> Feeds:
    if name.endswith("sequence"):
        steps = 60 if other else 100
        sound = _speech(rng, steps * 512 + 64, 16000)
        state = {n: np.zeros((1, 1, 128), np.float32) for n in "hc"}
        return {"input": np.stack([sound[i * 512 : i * 512 + 576] for i in range(steps)]), **state}
    batch = 4 if other and not name.endswith("openvino_16k") else 1
    out: Feeds = {
        "input": np.stack([_speech(rng, 576, 16000) for _ in range(batch)]),
        "state": np.zeros((2, batch, 128), np.float32),
    }
    if not name.endswith("openvino_16k"):
        out["sr"] = np.array(16000, np.int64)
    return out


def _tokens(rng: np.random.Generator, batch: int, length: int) -> Feeds:
    """Sentences of different lengths, padded with zeros."""
    mask = np.ones((batch, length), np.int64)
    for b in range(1, batch):
        mask[b, length - 6 * b :] = 0
    ids = rng.integers(1000, 30000, (batch, length)) * mask
    ids[:, 0] = 101
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _text_lines(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """White pages with dark strokes, scaled to [-1, 1]."""
    images = np.ones(shape, np.float32)
    height, width = shape[2:]
    for image in images:
        for x in range(4, width - 8, 9):
            top = int(rng.integers(height // 8, height // 2))
            image[:, top : top + height // 3, x : x + 2] = -1
            image[:, top, x : x + int(rng.integers(3, 8))] = -1
    return (images + rng.normal(0, 0.02, shape)).astype(np.float32)


def _molecule(rng: np.random.Generator, atoms: int, residues: int) -> Feeds:
    """A random compact chain: atoms at least 1.1 apart, edges within 5, consistent distances."""
    side = (atoms * 18.0) ** (1 / 3)
    position = np.empty((atoms, 3), np.float32)
    placed = 0
    while placed < atoms:
        point = rng.random(3) * side
        if placed == 0 or np.linalg.norm(position[:placed] - point, axis=1).min() > 1.1:
            position[placed] = point
            placed += 1
    distance = np.linalg.norm(position[:, None] - position[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    target, source = np.nonzero(distance < 5.0)
    edges = len(source)
    normal = rng.normal(size=(atoms, 3))
    residue = np.arange(atoms) * residues // atoms
    apart = np.minimum(np.abs(residue[source] - residue[target]), 32)

    def real(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        return np.asarray(x, np.float32)

    return {
        "element": rng.integers(0, 5, atoms),
        "amino_acid": rng.integers(0, 20, atoms),
        "atom_role": rng.integers(0, 14, atoms),
        "bfactor": real(rng.random(atoms)),
        "edge_index": np.stack([source, target]).astype(np.int64),
        "edge_dist": real(distance[target, source]),
        "seq_sep": apart.astype(np.int64),
        "same_residue": real(apart == 0),
        "target_indices": rng.integers(0, atoms, (residues, 6)),
        "target_mask": rng.random((residues, 6)) < 0.8,
        "residue_types": rng.integers(0, 20, residues),
        "residue_geometry": real(rng.normal(size=(residues, 52))),
        "target_environment": real(rng.normal(size=(residues, 6, 15))),
        "temperature_feature": real(np.full((residues, 1), 0.3)),
        "target_atom_rsasa": real(rng.random((residues, 6))),
        "pos": position,
        "node_normal": real(normal / np.linalg.norm(normal, axis=1, keepdims=True)),
        "is_hbond": real(rng.random(edges) < 0.05),
        "hb_cos": real(rng.uniform(-1, 1, edges)),
    }
