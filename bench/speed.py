"""How fast is fusec beside onnxruntime and beside its own unfused form?

    python -m bench.speed [--threads 1,2] [--rounds 40] [--save FILE.json] [NAME ...]

Every row is measured in interleaved rounds in one process; outputs are compared first; losses are printed like wins.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import fusec
from bench.machine import machine
from bench.models.architectures import ARCHITECTURES
from bench.records import ratio_text
from bench.store import save_records
from fusec.cli.text import print_table
from fusec.measure.accuracy import compare
from fusec.measure.rivals import onnxruntime_subject
from fusec.measure.rounds import geometric_mean, measure

FUSION_SET = (
    "mlp_256x3",
    "encoder_block",
    "pointwise_chain",
    "pointwise_chain_large",
    "affine_chain",
    "affine_chain_large",
    "softmax_chain",
    "softmax_chain_large",
    "norm_chain",
    "norm_chain_large",
)
"""MLP, encoder block, pointwise, softmax and layer-norm chains: what the fused-against-unfused mean is over. Chains come in
two sizes, since fusion saves launches on small tensors and memory traffic on those that no cache holds."""
DEFAULT = (*FUSION_SET, "mlp_784", "mlp_dynamic", "minilm_size", "gpt2_decode", "vit")


def row(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """One model: ratios of unfused and onnxruntime to fused, and the noise of fused against itself."""
    built = ARCHITECTURES[name]()
    model = built.model()
    fused, unfused = (fusec.compile(model, threads=threads, fuse=f) for f in (True, False))
    names = [v.name for v in fused.outputs]
    rival = onnxruntime_subject(model.SerializeToString(), built.feeds, threads)
    want = rival()
    for label, session in (("fused", fused), ("unfused", unfused)):
        bad = [d for d in compare(names, session.run_list(built.feeds, names), want) if not d.passes(1e-4)]
        if bad:
            raise SystemExit(
                f"{name} {label}: {bad[0].name} differs from onnxruntime: {bad[0].problem or bad[0].required}"
            )
    samples = measure(
        {
            "fused": lambda: fused.run_list(built.feeds, names),
            "again": lambda: fused.run_list(built.feeds, names),
            "unfused": lambda: unfused.run_list(built.feeds, names),
            "onnxruntime": rival,
        },
        rounds=rounds,
    )
    return {
        "model": name,
        "threads": threads,
        "fused_us": samples.percentile("fused", 50) * 1e6,
        **{f"vs_{n}": vars(samples.ratio(n, "fused")) for n in ("unfused", "onnxruntime", "again")},
    }


def main() -> None:
    """Measure, print and perhaps save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--save", default=None)
    options = parser.parse_args()
    if unknown := set(options.names) - set(ARCHITECTURES):
        sys.exit(f"unknown models: {', '.join(sorted(unknown))}")
    rows = []
    for threads in map(int, options.threads.split(",")):
        for name in options.names or DEFAULT:
            rows.append(row(name, threads, options.rounds))
            print(f"  {name} on {threads} thread(s)", file=sys.stderr)
    print_table(
        machine()["cpu"] + ": float32, interleaved; a ratio above 1 means that fusec is faster",
        ["model", "threads", "fused us", "onnxruntime / fusec", "unfused / fused", "noise"],
        [
            [
                r["model"],
                r["threads"],
                f"{r['fused_us']:.1f}",
                *(ratio_text(r[f"vs_{n}"]) for n in ("onnxruntime", "unfused", "again")),
            ]
            for r in rows
        ],
        "12",
    )
    for threads in sorted({r["threads"] for r in rows}):
        for rival, chosen in (("unfused", FUSION_SET), ("onnxruntime", DEFAULT)):
            ratios = [r[f"vs_{rival}"]["median"] for r in rows if r["threads"] == threads and r["model"] in chosen]
            if ratios:
                mean = f"{geometric_mean(ratios):.2f}x over {len(ratios)} models"
                print(f"geometric mean, {threads} thread(s), {rival} / fused: {mean}")
    if options.save:
        save_records(options.save, rows, rounds=options.rounds)


if __name__ == "__main__":
    main()
