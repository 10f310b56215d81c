"""What the exponential integrators share: exact integrals of polynomials in lambda, and where a step may be split.

In x / sigma the probability-flow ODE is an integral, x_s / sigma_s = x_t / sigma_t + int e^lambda D(lambda) d lambda
(arXiv 2211.01095, proposition 4.1). A method replaces D by a polynomial through the x0_hat that it knows, and
integrates that exactly; with u = lambda - lambda_t and h = lambda_s - lambda_t the coefficients are integrals of
e^-(h-u) u^k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core import Schedule, Step

_NEAR = 0.1  # the |h| below which I_n is summed as a series


def integrals(h: float, n: int) -> list[float]:
    """Return I_1 .. I_n, I_k = int_0^h e^-(h-u) u^k du = k! h^(k+1) phi_(k+1)(-h), for finite h of either sign.

    By the recursion I_k = h^k - k I_(k-1) from I_0 = 1 - e^-h, whose error is about k! times that of 1; for |h| < 0.1
    the other way round, from the power series of I_n, so that the relative error is that of rounding too.
    """
    if abs(h) >= _NEAR:
        found, value, power = [], -math.expm1(-h), 1.0
        for k in range(1, n + 1):
            power *= h
            value = power - k * value
            found.append(value)
        return found
    value = term = h ** (n + 1) / (n + 1)
    k = n + 2
    while abs(term) > 1e-17 * abs(value):
        term *= -h / k
        value += term
        k += 1
    found = [value]
    for k in range(n, 1, -1):
        value = (h**k - value) / k
        found.append(value)
    return found[::-1]


def adams(h: float, nodes: Sequence[float]) -> list[float]:
    """Return w such that int_0^h e^-(h-u) P(u) du = (1 - e^-h) P(0) + sum_j w_j (P(u_j) - P(0)).

    It is exact for the polynomials P of degree len(nodes) <= 3 through 0 and the `nodes` u_j, which are different
    from one another and from 0: negative ones are earlier values (Adams-Bashforth), h itself is the value to come
    (Adams-Moulton). For the integral of e^(h-u), negate h, the nodes and the weights.
    """
    if not nodes:
        return []
    if len(nodes) == 1:
        return [integrals(h, 1)[0] / nodes[0]]
    if len(nodes) == 2:
        first, second = integrals(h, 2)
        a, b = nodes
        return [(second - b * first) / (a * (a - b)), (second - a * first) / (b * (b - a))]
    first, second, third = integrals(h, 3)
    a, b, c = nodes
    return [
        (third - (q + r) * second + q * r * first) / (p * (p - q) * (p - r))
        for p, q, r in ((a, b, c), (b, a, c), (c, a, b))
    ]


def between(schedule: Schedule, k: Step, r: float) -> tuple[float, float, float]:
    """Return (t, alpha, sigma) at the share `r` of a step: at lambda_t + r h.

    Where alpha_t = 0, h is infinite; the share is then one of e^lambda, which is the variable that a denoiser is smooth
    in there.
    """
    lam = k.lam_t + r * (k.lam_s - k.lam_t) if k.alpha_t > 0.0 else k.lam_s + math.log(r)
    t = schedule.inverse(lam)
    alpha, sigma = schedule(t)
    return t, alpha, sigma
