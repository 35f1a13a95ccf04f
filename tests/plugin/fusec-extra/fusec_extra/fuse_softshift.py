"""A fusion pass: softshift joins what makes its input."""

from fusec.rewrite.fusion import Edge, Verdict, fusion_pass


@fusion_pass("fuse-softshift")
def fuse_softshift(edge: Edge) -> Verdict:
    """Close an edge into a lone softshift.

    before: h = matmul(x, w); y = softshift[shift=0.5](h)
    after:  group { h = matmul(x, w); y = softshift[shift=0.5](h) }
    """
    if edge.consumer.label != "softshift":
        return Verdict(False, "the consumer is no lone softshift")
    if not edge.sole_reader:
        return Verdict(False, f"{edge.value.name} has another reader")
    return Verdict(True, f"saves a store and a load of {edge.value.type}")
