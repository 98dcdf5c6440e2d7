"""Payment codes: what a person types as the account number, such as `PHK7-Q2M4`.

Eight characters of an alphabet in which no two look alike. The last one checks the others: it catches every single
wrong character and every swap of two, because the alphabet's size is a prime and each place has a weight of its own.
Twelve characters are all that M-Pesa leaves for it.
"""

import re

ALPHABET = "0123456789ABCDEFGHJKMNPQRTVWXYZ"
LENGTH = 8
#: How many different codes there are. The first character is a letter, so that no phone or identity number is a code.
CODES = 21 * len(ALPHABET) ** (LENGTH - 2)

_LETTERS = ALPHABET[10:]
_VALUE = {character: value for value, character in enumerate(ALPHABET)}
_LOOK_ALIKES = str.maketrans("OILSU", "0115V")
_SEPARATORS = re.compile(r"[\s\-‐‑‒–—―−_./#:]+")
_TYPED_LENGTH_MAX = 64


def make(number: int) -> str:
    """The code of a number from 0 to `CODES` - 1; random numbers make codes that nobody guesses."""
    if not 0 <= number < CODES:
        raise ValueError("a payment code is made from a number from 0 to CODES - 1")
    characters = []
    for _ in range(LENGTH - 2):
        number, value = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[value])
    characters.append(_LETTERS[number])
    code = "".join(reversed(characters))
    return code + ALPHABET[-_weighed(code) % len(ALPHABET)]


def normalise(typed: str) -> str | None:
    """The code somebody meant: any case, spaces and dashes, O for 0, I or L for 1, S for 5, U for V. None: no code."""
    if len(typed) > _TYPED_LENGTH_MAX:
        return None
    code = _SEPARATORS.sub("", typed).upper().translate(_LOOK_ALIKES)
    if len(code) != LENGTH or code[0] not in _LETTERS or any(character not in _VALUE for character in code):
        return None
    return code if (_weighed(code[:-1]) + _VALUE[code[-1]]) % len(ALPHABET) == 0 else None


def _weighed(code: str) -> int:
    return sum(weight * _VALUE[character] for weight, character in enumerate(code, 2))
