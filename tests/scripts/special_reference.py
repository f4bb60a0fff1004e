#!/usr/bin/env python3
"""Writes tests/data/special_reference.json: [function, arguments, value] at 50 digits.

Needs mpmath. Run from anywhere: python3 tests/scripts/special_reference.py
The arguments are doubles, taken exactly; only the result is rounded to a double.
"""

import json
import pathlib

import mpmath as mp

mp.mp.dps = 50
ROWS = []


def row(name, arguments, value):
    ROWS.append([name, [float(a) for a in arguments], float(value)])


def ln_beta(a, b):
    return mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)


def lower_beta(x, a, b):
    """ln I_x(a, b) by the power series, whose terms are all positive: no cancellation."""
    term = total = mp.mpf(1)
    n = 0
    while term > total * mp.mpf(10) ** -(mp.mp.dps):
        term *= x * (a + b + n) / (a + 1 + n)
        total += term
        n += 1
    return a * mp.log(x) + b * mp.log(1 - x) - mp.log(a) - ln_beta(a, b) + mp.log(total)


def ln_inc_beta(x, y, a, b):
    # The series needs 100/(1-x) terms; near 1 the complement is taken, with digits to spare.
    if x < (a + 1) / (a + b + 2) and y > 1e-4:
        return lower_beta(x, a, b)
    with mp.workdps(120):
        return mp.log1p(-mp.exp(lower_beta(y, b, a)))


def ln_gamma_q(a, x):
    if x < a + 1:
        term = total = mp.mpf(1)
        n = a
        while term > total * mp.mpf(10) ** -mp.mp.dps:
            n += 1
            term *= x / n
            total += term
        ln_p = a * mp.log(x) - x - mp.loggamma(a + 1) + mp.log(total)
        return mp.log1p(-mp.exp(ln_p))
    # Γ(a, x) = x^a e^-x ∫ (1+u)^(a-1) e^-xu du over u > 0; the integrand falls from 1 within w.
    w = 1 / (x - a + 1 + mp.sqrt(a))
    edges = [0, w, 3 * w, 9 * w, 27 * w, 81 * w, 300 * w, mp.inf]
    integral = mp.quad(lambda u: mp.exp((a - 1) * mp.log1p(u) - x * u), edges)
    return a * mp.log(x) - x - mp.loggamma(a) + mp.log(integral)


def ln_t_sf(t, df):
    t, df = mp.mpf(t), mp.mpf(df)
    with mp.workdps(120):
        x, y = df / (df + t * t), t * t / (df + t * t)
    upper = mp.log(mp.mpf(1) / 2) + (ln_inc_beta(x, y, df / 2, mp.mpf(1) / 2) if t else 0)
    return upper if t >= 0 else mp.log1p(-mp.exp(upper))


for x in [1e-9, 0.1, 0.5, 0.999, 1.0001, 1.5, 2.001, 3.7, 9.99, 10, 47.25, 1234.5, 3e4, 1e7, 1e12]:
    row("ln_gamma", [x], mp.loggamma(mp.mpf(x)))
for n, k in [(5, 2), (30, 15), (1000, 3), (14336, 7000), (30000, 2), (10**9, 4), (10**12, 10)]:
    row("ln_choose", [n, k], mp.log(mp.binomial(n, k)))

for df in [1, 2, 3, 6, 10, 38, 199, 1000, 14334, 29998, 1e6]:
    for t in [-40, -3, -0.5, 1e-6, 0.1, 0.7, 1, 1.5, 2, 3, 5, 8, 20, 100, 1000, 1e5]:
        row("ln_student_t_sf", [t, df], ln_t_sf(t, df))
# rho of 0.999999 over 30,000 units: ln p = -1e5 and beyond
row("ln_student_t_sf", [122470.0, 29998], ln_t_sf(122470.0, 29998))
row("ln_student_t_sf", [1e12, 29998], ln_t_sf(1e12, 29998))

for a, b in [(0.5, 0.5), (2, 3), (15, 0.5), (12, 40), (300, 200), (4999, 0.5), (2e4, 1e4), (1e6, 1e6)]:
    mode = a / (a + b)
    for x in [1e-12, 1e-3, 0.2 * mode, 0.9 * mode, mode, 1 - 0.9 * (1 - mode), 1 - 0.01 * (1 - mode)]:
        x = mp.mpf(float(x))
        row("ln_regularized_beta", [x, a, b], ln_inc_beta(x, 1 - x, mp.mpf(a), mp.mpf(b)))

for a in [0.5, 1, 3, 12, 64, 1000, 1e5]:
    for ratio in [1e-3, 0.3, 0.8, 0.99, 1, 1.01, 1.2, 2, 10, 300]:
        x = float(a * ratio)
        row("ln_regularized_gamma_q", [a, x], ln_gamma_q(mp.mpf(a), mp.mpf(x)))
for df in [1, 2, 24, 64, 2000]:
    for x in [0.01, 1, 20, 300, 1e4, 3e5]:
        row("ln_chi2_sf", [x, df], ln_gamma_q(mp.mpf(df) / 2, mp.mpf(x) / 2))
for z in [-30, -5, -1, -0.01, 0, 0.3, 1, 1.7, 1.74, 3, 8, 38, 40, 150, 447.3, 1500]:
    tail = mp.erfc(mp.mpf(abs(z)) / mp.sqrt(2)) / 2
    row("ln_normal_sf", [z], mp.log(tail) if z >= 0 else mp.log1p(-tail))

# A value that underflows a double (ln(1 - 1e-400)) says nothing about ours.
ROWS = [r for r in ROWS if r[2] == 0 or abs(r[2]) > 1e-290]
path = pathlib.Path(__file__).parent.parent / "data" / "special_reference.json"
path.write_text("[\n" + ",\n".join(json.dumps(r) for r in ROWS) + "\n]\n")
print(f"{len(ROWS)} values, ln p down to {min(r[2] for r in ROWS):.3g}")
