"""Payment codes: what people type finds its checkout, and what they mistype finds none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluct.payment_codes import ALPHABET, CODES, LENGTH, make, normalise

codes = st.integers(0, CODES - 1).map(make)
places = st.integers(0, LENGTH - 1)


def test_codes_fit_where_they_are_typed() -> None:
    """Eight characters, twelve with anybody's dashes; none that looks like another, none that is a number."""
    assert LENGTH == 8 and len(set(ALPHABET)) == len(ALPHABET) == 31
    assert not set("OILSU") & set(ALPHABET)
    assert CODES > 10**10


@given(st.integers(0, CODES - 1), st.integers(0, CODES - 1))
def test_every_number_has_a_code_of_its_own(one: int, other: int) -> None:
    """And every code is its own normal form, begins with a letter and is in the alphabet."""
    assert (make(one) == make(other)) == (one == other)
    code = make(one)
    assert normalise(code) == code and len(code) == LENGTH and set(code) <= set(ALPHABET) and code[0].isalpha()


@pytest.mark.parametrize("number", [-1, CODES])
def test_no_other_number_has_one(number: int) -> None:
    """A code that wrapped around would be somebody else's."""
    with pytest.raises(ValueError, match="payment code"):
        make(number)


@given(codes, places, st.sampled_from(ALPHABET))
def test_a_single_wrong_character_is_found(code: str, place: int, wrong: str) -> None:
    """Wherever it stands."""
    typed = code[:place] + wrong + code[place + 1 :]
    assert normalise(typed) == (code if wrong == code[place] else None)


@given(codes, places, places)
def test_a_swap_is_found(code: str, one: int, other: int) -> None:
    """Of neighbours, and of any two others."""
    characters = list(code)
    characters[one], characters[other] = characters[other], characters[one]
    swapped = "".join(characters)
    assert normalise(swapped) == (code if swapped == code else None)


@given(codes, st.integers(0, LENGTH), st.sampled_from(ALPHABET), places)
def test_a_character_too_many_or_too_few_is_found(code: str, at: int, more: str, place: int) -> None:
    """Eight are eight."""
    assert normalise(code[:at] + more + code[at:]) is None
    assert normalise(code[:place] + code[place + 1 :]) is None


ALIKE = {"0": "0Oo", "1": "1IiLlı", "5": "5Ss", "V": "VvUu"}


@given(codes, st.data())
def test_people_type_as_they_like(code: str, data: st.DataObject) -> None:
    """Small letters, spaces, dashes of any length, and characters that look alike."""
    typed = data.draw(st.sampled_from(["", " ", "\t"]))
    for character in code:
        typed += data.draw(st.sampled_from(ALIKE.get(character, character + character.lower())))
        typed += data.draw(st.sampled_from(["", "", " ", "-", "–", ".", "  "]))
    assert normalise(typed) == code


@given(st.text())
def test_anything_may_be_typed(typed: str) -> None:
    """It is a code or it is none; nothing breaks."""
    found = normalise(typed)
    assert found is None or normalise(found) == found


@pytest.mark.parametrize("typed", ["", "0712345678", "12345678", "JANE", "P" * 65, " " * 65, "PÄK7Q2M4", "٣" * 8])
def test_what_is_no_code_is_none(typed: str) -> None:
    """Numbers, names, rubbish."""
    assert normalise(typed) is None
