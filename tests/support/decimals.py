"""Strategies for decimals in all the spellings that an exchange may use."""

from hypothesis import strategies as st

_digits = st.integers(0, 10**30).map(str)
_fraction = st.just("") | st.tuples(st.sampled_from([".", ".0", ".000"]), _digits).map("".join)
_zeros = st.sampled_from(["", "0", "00"])
_sign = st.sampled_from(["", "-"])
_exponent = st.just("") | st.tuples(
    st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 999).map(str)
).map("".join)

plain = st.tuples(_zeros, _digits, _fraction).map("".join)
"""Digits with or without a fraction: the only spelling seen from the exchange so far."""

decimals = plain | st.tuples(_sign, _zeros, _digits, _fraction, _exponent).map("".join)
"""With an optional sign and exponent."""

json_numbers = st.tuples(_sign, _digits, _fraction, _exponent).map("".join)
"""Valid JSON numbers: without leading zeros."""
