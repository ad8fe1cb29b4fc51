"""The one hot loop of `knn_pruning` for a GPU, compiled by Triton, which torch brings along.

Written in torch, each sum goes to memory to be compared, and each answer to be counted: of ten
rounds of a class, 400 million of both. Here neither leaves the chip's registers.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


@no_type_check  # Triton reads this function itself, and no decorated one
def _count(
    gram, drift, line, few, k, n_gram, n_drift, n,
    BLOCK_S: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One program counts for BLOCK_S pushes and BLOCK_B boundary points."""
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    s_is, b_is = s < n_drift, b < n_gram
    place = s.to(tl.int64)[:, None] * n_gram + b[None, :]
    both = s_is[:, None] & b_is[None, :]
    mark = tl.load(line + place, mask=both, other=0.0)[:, :, None]
    near = tl.zeros([BLOCK_S, BLOCK_B, BLOCK_N], tl.int32)
    for start in range(0, n, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        j_is = j < n
        g = tl.load(gram + b[:, None] * n + j[None, :], mask=b_is[:, None] & j_is[None, :], other=0)
        p = tl.load(
            drift + s.to(tl.int64)[:, None] * n + j[None, :],
            mask=s_is[:, None] & j_is[None, :], other=0,
        )  # fmt: skip
        nearer = (g[None, :, :] + p[:, None, :] >= mark) & j_is[None, None, :]
        near += nearer.to(tl.int32)
    tl.store(few + place, (tl.sum(near, axis=2) < k).to(tl.int8), mask=both)


# Compiled once for all sizes: a class more or less is no reason to wait again.
_kernel = triton.jit(_count, do_not_specialize=["k", "n_gram", "n_drift", "n"])
BLOCKS = dict(BLOCK_S=4, BLOCK_B=8, BLOCK_N=128)


def fewer_than_on_gpu(k: int, gram: Tensor, drift: Tensor, line: Tensor) -> Tensor:
    """Do what `knn_pruning.fewer_than_plain` does, sum by sum to the last bit."""
    few = torch.empty(line.shape, dtype=torch.int8, device=line.device)
    grid = -(-len(drift) // BLOCKS["BLOCK_S"]), -(-len(gram) // BLOCKS["BLOCK_B"])
    sizes = len(gram), len(drift), gram.shape[1]
    with torch.cuda.device_of(line):  # Triton launches on the current device
        _kernel[grid](
            gram.contiguous(), drift.contiguous(), line.contiguous(), few, k, *sizes, **BLOCKS
        )
    return few.bool()
