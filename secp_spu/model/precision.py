"""Says how many fraction bits the numbers of a layer have under MPC, so that few of them have to be truncated.

A ring element has 64 bits, and a truncation wants numbers below 2**60. The fraction bits of a number take their part of
these 60, and the rest is for its size: projections have 25 bits (11 + 14), their squares 50, so |q|^2 may be 1024. A
weight of 0.03 is rounded as bfloat16 would round it, and a hidden state better.
"""

HIDDEN_BITS = 11
"""Fraction bits of the hidden states between an encoder's layers, which have a variance of one."""

WEIGHT_BITS = 14
"""Fraction bits of the weights that multiply hidden states, of the norms' gains, and of the attention's output."""

OUTPUT_WEIGHT_BITS = 13
"""Fraction bits of the weights of the feed-forward layer's output. An activation has up to 36 bits, so a product has 32
more than SUM_BITS: two cheap truncations."""

SUM_BITS = 17
"""Fraction bits of the residual stream before a layer norm."""

STREAM_BITS = 16
"""Fraction bits of a decoder's residual stream, in its layers and between them. No norm keeps the stream small: in
GPT-2 it begins with a deviation of 0.15, and grows to some ten, and to a hundred in the first token's row. With a
series as activation products have 48 fraction bits before the sum, which leaves room for elements of 2**12; with other
activations elements may be larger."""

VARIANCE_BITS = 22
"""Fraction bits of variances and squared norms. SPU gives their inverse roots with two bits fewer than its own 18."""

STREAM_VARIANCE_BITS = 20
"""Fraction bits of the variances of the residual stream. SPU's inverse root is zero from 2**17 on (SPU 0.9.5). With
these bits that is a variance of 2**15, times the ratio of the next power of two to the width: it concerns rows of width
768 that are longer than 5,700."""

SCALE_BITS = 12
"""Fraction bits of a layer norm's 1/deviation: with SUM_BITS and SPU's own truncation by 18 they make HIDDEN_BITS."""

STREAM_SCALE_BITS = 13
"""Fraction bits of 1/deviation of the residual stream: with STREAM_BITS and SPU's truncation they make HIDDEN_BITS.
A scale for a deviation of ten has a relative error of 6e-4, as large as that of rows with HIDDEN_BITS."""

VALUE_BITS = 18
"""Fraction bits of values before the sum over all tokens."""

MEAN_VALUE_BITS = 12
"""The same in an encoder's attention by learned features, whose means become HIDDEN_BITS: with so few the backward pass
multiplies them as they are."""

FACTOR_BITS = 16
"""Fraction bits of the correlations' factors in attention by features; public factors have 8, so features have 24."""

SUMMARY_BITS = 10
"""Fraction bits of the sums over keys."""

KERNEL_BITS = 22
"""Fraction bits of the kernels of single pairs. Products of features with 64 frequencies have 32 more: two cheap
truncations. KERNEL_BITS and VALUE_BITS together are as many as products of features and sums over keys have, with 64
frequencies."""

ATTENDED_BITS = 36
"""Fraction bits of causal means over keys. Before the truncation means have 45 and the logarithm of the tokens. Up to
128 tokens, of values up to 256, take one cheap truncation, and more take two; values of up to 32 fit for 1,024."""

COTANGENT_BITS = 12
"""Fraction bits of the cotangents of a layer's rows, which the data owner scales. Products of dense layers then have 49
at most, which leaves room for cotangents of 2,048. For few-shot tasks on MiniLM the largest are 7 to 17 times the
prompt's, and some 25 times the root mean square, in every layer."""

HEAD_COTANGENT_BITS = 10
"""Fraction bits of the cotangents of what attention gives."""

INNER_COTANGENT_BITS = 11
"""Fraction bits of the cotangents of what an activation gives: with a square's inputs of 25 bits they make 35."""

DIVISOR_BITS = 9
"""Fraction bits of 1/denominator, which is one or more for a kernel of at most one."""

TOKEN_SHARE_BITS = 10
"""Fraction bits of the tokens' shares in a mean over keys; the rounding error of a share cancels."""
