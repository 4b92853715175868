"""What the benchmarks and the soak share: figures, results, tables, the pool that all of them sell."""
