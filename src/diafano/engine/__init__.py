"""CPU engine: the networks' blocks as few, fused operations in bfloat16, with the arithmetic of `networks` unchanged.

`networks` defines them; everything here computes the same, faster, where the processor
multiplies bfloat16 (AVX-512 BF16 with VBMI; AMX) and a C++ compiler is there. `accelerated` puts it to work.
"""
