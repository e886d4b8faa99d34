"""The primitives in fused Triton kernels; nothing here is imported before :mod:`backend` asks."""
