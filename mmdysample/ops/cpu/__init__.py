"""The primitives in PyTorch's own operators, fast on a CPU; also where Triton cannot be used."""
