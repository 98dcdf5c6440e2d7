"""What money buys: the price list, applied to an amount.

Pure arithmetic in whole minor units and whole credits; nothing is ever rounded in anyone's favour but by `floor`.
"""

import msgspec

from pluct.model import OddAmounts, Pack, Priced


class Bought(msgspec.Struct, frozen=True, gc=False):
    """Credits for money: which packs, and what is left for the next payment."""

    lines: tuple[Priced, ...]
    credits: int
    remainder: int


def bought(amount: int, currency: str, remainder: int, packs: tuple[Pack, ...], odd: OddAmounts) -> Bought | str:
    """What an amount buys, or a sentence that says why nothing.

    `odd` says what becomes of amounts that are no pack's price: `packs`: the largest packs that fit into the remainder
    and the amount together, what is left is the new remainder; `pro_rata`: by the rate of the pack with the most
    credits for the money; `hold`: nothing, a person decides.
    """
    sold = sorted((pack for pack in packs if pack.currency == currency), key=lambda pack: (-pack.price, -pack.credits))
    if not sold:
        return f"No pack is sold in {currency}."
    if odd == "packs":
        lines, left = [], amount + remainder
        for pack in sold:
            count, left = divmod(left, pack.price)
            if count:
                lines.append(Priced(pack.id, pack.price, pack.credits, count))
        return Bought(tuple(lines), sum(line.credits * line.count for line in lines), left)
    for pack in sold:
        if pack.price == amount:
            return one(pack.id, pack.price, pack.credits, remainder)
    if odd == "hold":
        return "The amount is no pack's price."
    best = sold[0]
    for pack in sold:
        if pack.credits * best.price > best.credits * pack.price:
            best = pack
    credits = amount * best.credits // best.price
    if not credits:
        return "The amount buys no whole credit."
    return Bought((Priced(best.id, best.price, best.credits, 0),), credits, remainder)


def one(pack_id: str, price: int, credits: int, remainder: int) -> Bought:
    """One pack at its price; an earlier remainder stays what it is."""
    return Bought((Priced(pack_id, price, credits, 1),), credits, remainder)
