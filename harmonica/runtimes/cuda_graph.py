"""A full trajectory as one CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor


class CudaGraph:
    """A function of one tensor on a GPU, captured once for inputs of this shape and then replayed with one launch.

    The function must not synchronise with the host; a deterministic sampler under any plan does not.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], example: Tensor, warm_ups: int = 2):
        self._input, side = example.clone(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compilation and allocation cannot happen during capture
            for _ in range(warm_ups):
                run(self._input)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = run(self._input)

    def __call__(self, x: Tensor) -> Tensor:
        self._input.copy_(x)
        self._graph.replay()
        return self._output.clone()
