"""`python -m multigraft_server.engine.kernels`: compiles the kernels ahead, beside their sources."""

from __future__ import annotations

from multigraft_server.engine.kernels.compiler import BUILT, compile_into

if __name__ == "__main__":
    print(compile_into(BUILT))
