"""Decimals in all the ways that an exchange may write them."""

from hypothesis import strategies as st

_digits = st.integers(0, 10**30).map(str)
_fraction = st.just("") | st.tuples(st.sampled_from([".", ".0", ".000"]), _digits).map("".join)
_zeros = st.sampled_from(["", "0", "00"])
_sign = st.sampled_from(["", "-"])
_exponent = st.just("") | st.tuples(
    st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 999).map(str)
).map("".join)

plain = st.tuples(_zeros, _digits, _fraction).map("".join)
"""Digits with or without a fraction, as the exchange has always been seen to send them."""

decimals = plain | st.tuples(_sign, _zeros, _digits, _fraction, _exponent).map("".join)
"""With a sign and an exponent as well."""

json_numbers = st.tuples(_sign, _digits, _fraction, _exponent).map("".join)
"""Those that are JSON numbers: without leading zeros."""
