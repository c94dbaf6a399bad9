"""The benchmarks, a file each: its docstring says in docs/performance.md how it is measured."""
