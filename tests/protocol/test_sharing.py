import random
from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from parties import SETTINGS, ULP
from spu import libspu
from spu.api import Io
from uniformity import are_alike, are_uniform

from secp_spu.protocol import MaskStream, Scheme, decode, encode
from secp_spu.protocol.sharing import KEY_BYTES, public_elements, public_share

pytestmark = pytest.mark.smoke

FLOATS = np.array([0, -0.0, 1, -1, ULP, -ULP, 0.1, -1e-9, 12345.678, -(2.0**44), 2.0**44], np.float32)
INTEGERS = np.array([0, 1, -1, 2**31 - 1, -(2**31)], np.int32)
EVERY_RING_SIZE = np.array([0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)


@pytest.fixture
def scheme(setting):
    return Scheme(*setting)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_encode_takes_floats_to_the_nearest_ring_integer(array):
    elements = encode(array(FLOATS))
    assert elements.dtype == np.uint64
    np.testing.assert_array_equal(elements.view(np.int64), np.rint(FLOATS.astype(np.float64) / ULP))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_encode_keeps_integers_and_their_sign(array):
    elements = encode(array(INTEGERS))
    assert (type(elements), elements.dtype) == (np.ndarray, np.uint64)
    np.testing.assert_array_equal(elements.view(np.int64), INTEGERS.astype(np.int64))


def test_decode_undoes_encode():
    assert np.abs(decode(encode(FLOATS), np.float32) - FLOATS).max() <= ULP / 2
    np.testing.assert_array_equal(decode(encode(INTEGERS), np.int32), INTEGERS)
    assert decode(encode(FLOATS), np.float32).dtype == np.float32
    assert decode(encode(INTEGERS), np.int32).dtype == np.int32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**44 * 1.001, -(2.0**45)])
def test_encode_refuses_values_out_of_range(value):
    with pytest.raises(ValueError, match=r"values must be finite and at most 2\*\*44"):
        encode(np.array([0, value, 1], np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint32, bool])
def test_encode_refuses_other_types(dtype):
    with pytest.raises(ValueError, match=f"values have dtype {np.dtype(dtype)}: share float32 or int32"):
        encode(np.zeros(3, dtype))


@pytest.mark.parametrize("size", [(0,), (), (3, 0, 2)])
def test_encode_takes_every_shape(size):
    assert encode(np.zeros(size, np.float32)).shape == size


@pytest.mark.parametrize(
    ("protocol", "parties", "message"),
    [
        ("cheetah", 2, "protocol is 'cheetah', but shares are known for 'aby3' and 'semi2k'"),
        ("aby3", 2, "aby3 cannot run among 2 parties: aby3 has 3, semi2k 2 or more"),
        ("aby3", 4, "aby3 cannot run among 4 parties"),
        ("semi2k", 1, "semi2k cannot run among 1 parties"),
    ],
)
def test_scheme_refuses_what_spu_does_not_have(protocol, parties, message):
    with pytest.raises(ValueError, match=message):
        Scheme(protocol, parties)


def test_scheme_leaves_a_component_out_of_every_share(scheme):
    """One party alone never holds all; and every component is held, by those that `holders` names."""
    held = [set(scheme.held_by(rank)) for rank in range(scheme.parties)]
    everything = set(range(scheme.parties))
    assert all(part < everything for part in held)
    assert set.union(*held) == everything
    for component in everything:
        assert set(scheme.holders(component)) == {rank for rank, part in enumerate(held) if component in part}


def test_split_adds_up(scheme):
    components = scheme.split(EVERY_RING_SIZE, MaskStream())
    assert len(components) == scheme.parties
    np.testing.assert_array_equal(sum(components, start=np.zeros(7, np.uint64)), EVERY_RING_SIZE)


def test_split_hides_the_value_from_all_but_one_component(scheme):
    """Every component is uniform, and so is every sum of fewer than all; all of them together are the value."""
    for value in (np.zeros(4099, np.uint64), np.full(4099, 2**63 - 1, np.uint64)):
        components = scheme.split(value, MaskStream())
        for count in range(1, scheme.parties):
            for chosen in combinations(components, count):
                assert are_uniform(sum(chosen, start=np.zeros(4099, np.uint64)))
        assert not are_uniform(sum(components, start=np.zeros(4099, np.uint64)))


def shares_of(scheme, elements, dtype):
    components = dict(enumerate(scheme.split(elements, MaskStream())))
    return [scheme.share(rank, components, dtype) for rank in range(scheme.parties)]


def test_reconstruct_undoes_share(scheme):
    elements = np.stack([EVERY_RING_SIZE] * 3)
    shares = shares_of(scheme, elements, np.dtype(np.int32))
    np.testing.assert_array_equal(scheme.reconstruct(shares), elements)


@pytest.mark.parametrize("values", [FLOATS.reshape(11, 1), INTEGERS, np.float32(-2.5).reshape(())])
def test_share_is_what_spu_reads(scheme, values):
    io = Io(scheme.parties, _config(scheme))
    read = io.reconstruct(shares_of(scheme, encode(values), values.dtype))
    np.testing.assert_allclose(read, values, rtol=0, atol=ULP / 2)
    public = io.reconstruct([scheme.public(values)] * scheme.parties)
    np.testing.assert_allclose(public, values, rtol=0, atol=ULP / 2)


def test_parts_of_all_ranks_add_up_and_are_one_component_each(scheme):
    """Two parts of ABY3 are no more than the two components that a single party holds."""
    elements = np.stack([EVERY_RING_SIZE] * 3)
    components = scheme.split(elements, MaskStream())
    parts = []
    for rank in range(scheme.parties):
        parts.append(scheme.part(rank, scheme.share(rank, dict(enumerate(components)), np.dtype(np.int32))))
        np.testing.assert_array_equal(parts[rank], components[rank])
    np.testing.assert_array_equal(sum(parts, start=np.zeros_like(elements)), elements)


@pytest.mark.parametrize("values", [FLOATS.reshape(11, 1), INTEGERS, np.float32(-2.5).reshape(())])
def test_a_public_values_part_comes_from_rank_0(scheme, values):
    parts = [scheme.part(rank, scheme.public(values)) for rank in range(scheme.parties)]
    np.testing.assert_array_equal(parts[0], encode(values))
    for part in parts:
        assert (part.dtype, part.shape) == (np.uint64, values.shape)
    assert not np.any(parts[1:])


def test_reconstruct_leaves_the_shares_as_they_are(scheme):
    shares = shares_of(scheme, EVERY_RING_SIZE, np.dtype(np.int32))
    for _ in range(2):
        np.testing.assert_array_equal(scheme.reconstruct(shares), EVERY_RING_SIZE)


def test_reconstruct_reads_what_spu_shares(scheme):
    io = Io(scheme.parties, _config(scheme))
    secret = io.make_shares(FLOATS.reshape(11, 1), libspu.Visibility.VIS_SECRET)
    # SPU's own encoder cuts instead of rounding.
    assert np.abs(decode(scheme.reconstruct(secret), np.float32) - FLOATS.reshape(11, 1)).max() <= ULP
    public = io.make_shares(INTEGERS, libspu.Visibility.VIS_PUBLIC)
    np.testing.assert_array_equal(decode(scheme.reconstruct(public), np.int32), INTEGERS)


def _config(scheme):
    return libspu.RuntimeConfig(protocol=scheme.kind, field=libspu.FieldType.FM64, fxp_fraction_bits=18)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.float32])
def test_share_refuses_components_narrower_than_the_ring(scheme, dtype):
    components = dict.fromkeys(range(scheme.parties), np.zeros(3, np.uint64))
    components[scheme.parties - 1] = np.zeros(3, dtype)
    with pytest.raises(ValueError, match=f"a component has dtype {np.dtype(dtype)}: shares are whole ring elements"):
        scheme.share(scheme.parties - 1, components, np.dtype(np.int32))


def test_components_refuses_boolean_shares(scheme):
    share = shares_of(scheme, EVERY_RING_SIZE, np.dtype(np.int32))[0]
    meta = libspu.ValueMeta()
    meta.ParseFromString(share.meta)
    meta.storage_type = f"{scheme.protocol}.BShr<FM64,1>"
    share.meta = meta.SerializeToString()
    with pytest.raises(ValueError, match=r"a share is stored as \w+\.BShr<FM64,1>: only arithmetic shares"):
        scheme.components(0, share)
    with pytest.raises(ValueError, match="only arithmetic shares"):
        scheme.part(0, share)


def test_twins_draw_the_same():
    stream = MaskStream()
    first = stream.draw((3, 5))
    twin = stream.twin()
    np.testing.assert_array_equal(twin.draw((3, 5)), first)
    np.testing.assert_array_equal(twin.draw((7,)), stream.draw((7,)))
    assert twin.draw(()).shape == ()


def test_twins_need_not_draw_in_the_same_pieces():
    stream = MaskStream()
    twin = stream.twin()
    pieces = [stream.draw(shape).reshape(-1) for shape in ((), (3,), (0,), (2, 5))]
    np.testing.assert_array_equal(np.concatenate(pieces), twin.draw((14,)))


def test_mask_stream_is_aes_in_counter_mode():
    key = bytes(range(KEY_BYTES))
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    np.testing.assert_array_equal(MaskStream(key).draw((5,)), np.frombuffer(cipher.update(bytes(40)), np.uint64))


def test_mask_stream_never_repeats():
    """Chance of a false alarm: 2**35 pairs of 2**18 elements, 2**-64 each."""
    stream, other = MaskStream(), MaskStream()
    drawn = np.concatenate([stream.draw((2**16,)), stream.draw((2**16,)), other.draw((2**17,))])
    assert np.unique(drawn).size == 2**18


def test_mask_stream_is_uniform():
    drawn = MaskStream().draw((2**14,))
    assert are_uniform(drawn)
    assert are_alike(drawn, MaskStream().draw((2**14,)))
    assert not are_uniform(drawn >> np.uint64(32)), "a mask of 32 bits passes"
    assert not are_uniform(drawn << np.uint64(1)), "a mask of 63 bits passes"


def test_mask_stream_takes_nothing_from_seedable_generators():
    def draw_seeded():
        np.random.seed(0)
        random.seed(0)
        return MaskStream().draw((5,))

    assert not (draw_seeded() == draw_seeded()).any()


def test_mask_stream_does_not_show_its_key():
    key = bytes(range(65, 65 + KEY_BYTES))
    stream = MaskStream(key)
    for text in (repr(stream), str(stream), f"{[stream]}"):
        assert "key not shown" in text
        assert key.decode() not in text
        assert key.hex() not in text


@pytest.mark.parametrize("size", [0, 16, 33])
def test_mask_stream_refuses_other_keys(size):
    with pytest.raises(ValueError, match=f"a key has 32 bytes, got {size}"):
        MaskStream(bytes(size))


def test_every_setting_is_a_scheme():
    assert {Scheme(*setting).kind for setting in SETTINGS} == {libspu.ProtocolKind.ABY3, libspu.ProtocolKind.SEMI2K}


@pytest.mark.parametrize("element", [2**31, -(2**31) - 1, 2**32, 2**63 - 1, -(2**63)])
def test_decode_refuses_what_int32_would_wrap(element):
    """A sum in the ring has 64 bits; int32 kept the lowest 32 of it, 0 of 2**32."""
    elements = np.array([1, element], np.int64).view(np.uint64)
    with pytest.raises(ValueError, match="which int32 cannot hold: open ring integers as fixed-point numbers"):
        decode(elements, np.int32)
    assert decode(elements, np.float32)[1] == pytest.approx(element * 2.0**-18)


def test_decode_takes_every_int32_and_nothing_at_all():
    np.testing.assert_array_equal(decode(encode(INTEGERS), np.int32), INTEGERS)
    assert decode(np.zeros((0, 3), np.uint64), np.int32).shape == (0, 3)


# SPU's messages


def message(offset, content, total):
    """As SPU itself writes it."""
    chunk = libspu.ValueChunk()
    chunk.total_bytes, chunk.chunk_offset, chunk.content = total, offset, content
    return chunk.SerializeToString()


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 2**11, 2**18])
def test_a_share_is_written_as_spu_writes_it(count):
    elements = np.random.default_rng(count).integers(0, 2**64, count, np.uint64)
    share = public_share(elements, np.dtype(np.int32))
    assert list(share.share_chunks) == [message(0, elements.tobytes(), elements.nbytes)]
    np.testing.assert_array_equal(public_elements(share), elements)


def test_a_share_in_several_chunks_is_put_together_by_their_places():
    elements = np.arange(1000, dtype=np.uint64)
    content, share = elements.tobytes(), public_share(elements, np.dtype(np.int32))
    share.share_chunks = [message(at, content[at : at + 800], len(content)) for at in (7200, *range(0, 7200, 800))]
    np.testing.assert_array_equal(public_elements(share), elements)


@pytest.mark.parametrize("serialized", [b"\x22\x01a", b"\x1a\x05abc", b"\x08\x03\x1a\x01ab"])
def test_another_message_is_refused(serialized):
    share = public_share(np.zeros(1, np.uint64), np.dtype(np.int32))
    share.share_chunks = [serialized]
    with pytest.raises(ValueError, match="a chunk of a share is no message of SPU's that is known here"):
        public_elements(share)


def test_a_secret_is_no_public_value():
    share = Scheme("semi2k", 2).share(0, {0: np.zeros(1, np.uint64)}, np.dtype(np.int32))
    with pytest.raises(ValueError, match="a value is secret, where a public one is wanted"):
        public_elements(share)
