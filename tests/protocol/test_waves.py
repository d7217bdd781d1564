import numpy as np
import pytest
from parties import SEMI2K_2, peek

from secp_spu.protocol import fit_gelu
from secp_spu.protocol.cosine import interpolated
from secp_spu.protocol.gelu import TURN_BITS, public_error_bound, waves_of
from secp_spu.protocol.reciprocal import fit_reciprocal
from secp_spu.protocol.reciprocal import waves_of as waves_of_reciprocal
from secp_spu.protocol.sharing import public_share
from secp_spu.protocol.waves import (
    COSINE,
    POLYNOMIAL_BITS,
    POLYNOMIAL_ERROR,
    PUBLIC_BITS,
    Waves,
    native_waves,
    public_waves,
    waves_digest,
)
from secp_spu.runtime import LocalRuntime, Spec, Stored, compile_program

KINDS = {
    "cosine": Waves(36, start_bits=9),
    "exact cosine": Waves(18, start_bits=18),
    "series": waves_of(fit_gelu(8, 5)),
    "longest series": waves_of(fit_gelu(32, 12)),
    "reciprocal": waves_of_reciprocal(),
}
BEYOND_16_BITS = Waves(40, (3, 5 << 20), (-7, 1), odd=True, start_bits=20, drop=25)


def publish_raw(runtime: LocalRuntime, elements: np.ndarray) -> Stored:
    """A public value of 64 bits: `publish` takes 32-bit values alone."""
    handle = runtime._handle(Spec(elements.shape, np.dtype(np.int32), False))
    share = public_share(elements, handle.spec.dtype)
    runtime._everywhere(lambda party: party.spu.set_var(handle.name, share))
    return handle


def angles(turn_bits: int, step: int = 1) -> np.ndarray:
    """Every so many of the 2**18 steps of a turn, with random bits below and above them."""
    rng, below = np.random.default_rng(7), turn_bits - 18
    steps = np.arange(0, 2**18, step, dtype=np.uint64)
    above = rng.integers(0, 2 ** min(64 - turn_bits, 32), steps.size).astype(np.uint64) << np.uint64(turn_bits % 64)
    return above + (steps << np.uint64(below)) + rng.integers(0, 2**below, steps.size).astype(np.uint64)


@pytest.mark.parametrize("bits", [9, 12, 18])
@pytest.mark.parametrize("turn_bits", [18, 31, 36, 45, 64])
def test_cos_and_sin_of_every_step(bits, turn_bits):
    found = native_waves(angles(turn_bits), Waves(turn_bits, start_bits=bits)).view(np.int64) * 2.0**-bits
    angle = 2 * np.pi * np.arange(2**18) / 2**18
    for result, expected in zip(found, (np.cos(angle), -np.sin(angle)), strict=True):
        error = np.abs(result[0] - expected).max()
        assert 2.0 ** -(bits + 1) * 0.99 < error <= 2.0 ** -(bits + 1) + POLYNOMIAL_ERROR


def test_multiples_are_within_the_bound_of_series():
    series = fit_gelu(32, 12)
    found = native_waves(angles(TURN_BITS), waves_of(series)).view(np.int64) * 2.0**-PUBLIC_BITS
    angle = 2 * np.pi * np.arange(2**18) / 2**18
    bounds = public_error_bound(series, np.array(series.coefficients[1:]))
    for k, a, cos, sin, bound in zip(series.multiples, series.coefficients[1:], *found, bounds, strict=True):
        for result, expected in ((cos, a * np.cos(k * angle)), (sin, -a * np.sin(k * angle))):
            assert 2.0 ** -(PUBLIC_BITS + 2) < np.abs(result - expected).max() <= bound < 4 * 2.0**-PUBLIC_BITS


def test_both_parts_with_both_coefficients():
    """a cos + b sin and b cos - a sin of a reciprocal's coefficients; the bound is a thousandth of the largest."""
    coefficients, _ = fit_reciprocal()
    found = native_waves(angles(44), waves_of_reciprocal()).view(np.int64) * 2.0**-PUBLIC_BITS
    angle = 2 * np.pi * np.arange(2**18) / 2**18
    for k, (a, b) in enumerate(zip(coefficients[1:13], coefficients[13:], strict=True)):
        cos, sin = np.cos((k + 1) * angle), np.sin((k + 1) * angle)
        assert np.abs(found[0, k] - (a * cos + b * sin)).max() < 0.02
        assert np.abs(found[1, k] - (b * cos - a * sin)).max() < 0.02


@pytest.mark.parametrize("waves", [*KINDS.values(), BEYOND_16_BITS], ids=[*KINDS, "beyond 16 bits"])
def test_parties_and_spus_interpreter_compute_the_same_integers(runtimes, monkeypatch, waves):
    """What a runtime's parties compute by a table is what a foreign device computes, operation by operation."""
    runtime = runtimes(SEMI2K_2)
    delta = angles(waves.turn_bits, 61).reshape(2, -1)
    handle = publish_raw(runtime, delta)
    np.testing.assert_array_equal(peek(runtime, handle), delta)
    native = runtime.run("public", lambda delta: public_waves(delta, waves), handle)

    def interpreted(name, fn, specs):
        return compile_program(name, fn, specs, native=False)

    monkeypatch.setattr("secp_spu.runtime.base.compile_program", interpreted)
    by_spu = runtime.run("interpreted", lambda delta: public_waves(delta, waves), handle)
    assert "pphlo.custom_call @secp_spu.waves" not in dict(runtime.programs[-1].audit.operations)
    expected = native_waves(delta, waves)
    assert expected.shape == (2, len(waves.cosines), *delta.shape)
    assert len(np.unique(expected)) > 100
    for result in (native, by_spu):
        assert not result.spec.secret
        np.testing.assert_array_equal(peek(runtime, result), expected)


def test_the_digest_is_that_of_every_machine():
    """Integers in, integers out: were it to change, parties of different releases would refuse each other."""
    assert waves_digest() == "6f018ff9cec2c1bf2e6d3d162720fc46ee31b03dfc160f18d69f77c8099b8f8c"


def test_the_cosine_that_is_written_down_is_the_interpolated_one():
    coefficients = interpolated(lambda square: -np.cos(np.pi * np.sqrt(square)), 5)
    assert tuple(round(c * 2**POLYNOMIAL_BITS) for c in coefficients) == COSINE


@pytest.mark.parametrize("waves", [*KINDS.values(), BEYOND_16_BITS], ids=[*KINDS, "beyond 16 bits"])
def test_waves_come_out_of_a_program_as_they_went_in(waves):
    assert Waves.from_constant(waves.as_constant().astype(np.int64)) == waves


@pytest.mark.parametrize(
    ("row", "column", "value"), [(0, 0, 17), (0, 0, 65), (0, 1, 2), (0, 2, 0), (0, 2, 25), (0, 3, 32), (1, 0, 2)]
)
def test_a_constant_that_no_program_has_is_refused(row, column, value):
    constant = KINDS["series"].as_constant()
    constant[row, column] = value
    with pytest.raises(ValueError, match="no constant that this release makes"):
        Waves.from_constant(constant)
    with pytest.raises(ValueError, match="no constant that this release makes"):
        Waves.from_constant(constant[:1])
