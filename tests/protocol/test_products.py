import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, cost_of, shared
from test_cosine import numbers_of

from secp_spu.protocol import batched_product, from_storage, to_storage
from secp_spu.protocol.products import together

pytestmark = pytest.mark.smoke

BITS = 12


def product(protocol):
    def run(x, y):
        left, right = (from_storage(a, BITS, secure=True) for a in (x, y))
        return batched_product(left, right, opens_operands=protocol == "semi2k")

    return run


@pytest.mark.parametrize("setting", [ABY3, SEMI2K_2], ids=["aby3", "semi2k"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4, 6), (7, 5, 4, 6), (1, 1, 5, 4, 6)], ids=str)
def test_batched_product_is_exact_in_a_message_for_a_group(runtimes, setting, shape):
    """Every matrix with its own and no other, all bits kept; ABY3 sends the blocks beside the diagonal too."""
    runtime, (*batch, rows, inner, columns) = runtimes(setting), shape
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**14), 2**14, (*batch, rows, inner)) * 2.0**-BITS
    y = rng.integers(-(2**14), 2**14, (*batch, inner, columns)) * 2.0**-BITS
    secrets = [shared(runtime, to_storage(a, BITS).astype(np.float32)) for a in (x, y)]
    result, (sent, messages) = cost_of(runtime, lambda: runtime.run("product", product(setting[0]), *secrets))
    np.testing.assert_array_equal(numbers_of(runtime, result), x @ y)

    matrices = int(np.prod(batch))
    group = together(matrices, rows, inner, columns, opens_operands=setting == SEMI2K_2)
    assert group == matrices, "so small that all of them go together"
    if setting == ABY3:
        assert (sent, messages) == (3 * 8 * group * matrices * rows * columns, 3)
    else:
        assert (sent, messages) == (2 * 8 * matrices * inner * (rows + columns), 2)


def test_few_go_together_where_a_message_would_cost_more():
    """RoBERTa-large's 16 heads of 64 features at 512 tokens go one by one; at 40 tokens they share messages."""
    for opens in (True, False):
        assert together(16, 128, 512, 65, opens_operands=opens) == 1
    assert together(16, 128, 40, 65, opens_operands=True) == 2
    assert together(16, 64, 40, 33, opens_operands=True) == 4
    assert together(16, 64, 40, 33, opens_operands=False) == 2
    assert together(7, 4, 4, 4, opens_operands=True) == 7
    assert together(9, 128, 40, 65, opens_operands=True) == 3, "a divisor"
