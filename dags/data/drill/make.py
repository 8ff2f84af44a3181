"""Writes sales.csv: the same bytes on every machine. Run it in this folder; it needs Python alone."""

import datetime
import math

SERIES, DAYS, FIRST = 10, 330, datetime.date(2024, 1, 1)
WEEKDAY = [0.8, 0.9, 1.0, 1.05, 1.3, 1.6, 0.5]


def draws(state):
    """Numbers in [0, 1): a linear congruential generator with the constants of Knuth's MMIX."""
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield (state >> 11) / 2**53


with open("sales.csv", "w", newline="\n") as out:
    out.write("sku,day,promo,sold\n")
    for series in range(SERIES):
        draw = draws(series + 1)
        level = 20 + 12 * series
        for at in range(DAYS):
            day = FIRST + datetime.timedelta(days=at)
            promo = int(next(draw) < 0.2)
            # Sum of four draws: close enough to a bell, without a logarithm.
            noise = sum(next(draw) for _ in range(4)) / 2 - 1
            season = 1 + 0.15 * math.sin(2 * math.pi * at / 365)
            sold = level * WEEKDAY[day.weekday()] * season * (1.8 if promo else 1.0) * (1 + 0.25 * noise)
            out.write(f"sku{series:02d},{day},{promo},{max(0, round(sold))}\n")
