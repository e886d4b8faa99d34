"""The primitives in PyTorch's own operators: on a CPU, and on GPUs where Triton is not used."""
