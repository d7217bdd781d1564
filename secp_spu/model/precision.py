"""How many fraction bits the numbers of a layer have under MPC, so that few of them have to be truncated.

A ring element has 64 bits, and a truncation wants numbers below 2**60. What a number's fraction bits leave of that is
for its size: projections have 25 bits (11 + 14), their squares 50, so |q|^2 may be 1024. A weight of 0.03 is rounded as
bfloat16 would round it, and a hidden state better.
"""

HIDDEN_BITS = 11
"""Of the hidden states between layers, which have a variance of one."""

WEIGHT_BITS = 14
"""Of the weights that hidden states are multiplied with, of the norms' gains, and of the attention's output."""

OUTPUT_WEIGHT_BITS = 13
"""Of the feed-forward layer's output: with up to 36 bits of an activation 32 above SUM_BITS: two cheap truncations."""

SUM_BITS = 17
"""Of the residual stream in front of a layer norm."""

STREAM_BITS = 16
"""Of a decoder's residual stream, between its layers too. No norm keeps it small: it begins with a deviation of 0.15 in
GPT-2, and grows to some ten, and to a hundred in the first token's row. Its elements may be 2**12 with a series as
activation, of 48 fraction bits in front of the sum, and more with others."""

VARIANCE_BITS = 22
"""Of variances and squared norms, whose inverse roots SPU then gives with two bits fewer than its own 18."""

STREAM_VARIANCE_BITS = 20
"""The same of the residual stream: SPU's inverse root is zero from 2**17 on (SPU 0.9.5), here of variances from 2**15
on, times what the width lacks to a power of two: of rows of width 768 that are longer than 5,700."""

SCALE_BITS = 12
"""Of a layer norm's 1/deviation: with SUM_BITS and SPU's own truncation by 18 they make HIDDEN_BITS."""

STREAM_SCALE_BITS = 13
"""The same with STREAM_BITS: a deviation of ten is good to 6e-4 of itself, as rows are of HIDDEN_BITS."""

VALUE_BITS = 18
"""Of values in front of the sum over all tokens."""

FACTOR_BITS = 16
"""Of the correlations' factors of random feature attention; with 8 of the public factors features have 24."""

SUMMARY_BITS = 10
"""Of the sums over keys."""

KERNEL_BITS = 22
"""Of the kernels of single pairs: 32 below what products of features have with 64 frequencies, two cheap truncations.
With VALUE_BITS they make as many as FACTOR_BITS, SUMMARY_BITS and those 64 frequencies."""

ATTENDED_BITS = 36
"""Of causal means over keys. Before, they have 45 and the logarithm of the tokens: one cheap truncation for up to 128
tokens, of values up to 256, and two for more; values of up to 32 fit for 1,024 tokens."""

DIVISOR_BITS = 9
"""Of 1/denominator, which is one or more for a kernel of at most one."""

TOKEN_SHARE_BITS = 10
"""Of the tokens' shares in a mean over keys; what rounding takes from a share cancels."""
