"""torch.compile, and that nobody takes its minutes for a hang.

Compilers run when a kernel is first needed: in the first step, in the first validation, and again for a batch of another shape.
torch tells of each, so the rank says `compiling`, which has the allowance of a start, for just so long.
"""

from typing import Any

import torch

from ..errors import PermanentError, setting
from ..pulse import Pulse


def refuse_without_compiler(device: torch.device) -> None:
    """PermanentError where torch.compile could make nothing."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise PermanentError(
            f"{setting('compile')}: torch.compile needs a C++ compiler, and this machine has none; use an image with g++, or "
            "leave compile out"
        ) from None
    if device.type == "cuda" and not has_triton():
        raise PermanentError(
            f"{setting('compile')}: torch.compile needs Triton on a GPU; install it, or leave compile out"
        )


def tell_of_compiling(pulse: Pulse) -> None:
    """From now on the agent knows when this rank compiles."""
    from torch._dynamo.callback import on_compile_end, on_compile_start  # imports all of the compiler

    before = []

    def begins(_: Any) -> None:
        before.append(pulse.activity)
        pulse.beat("compiling")

    def ends(_: Any) -> None:
        pulse.beat(before.pop())

    on_compile_start(begins)
    on_compile_end(ends)
