"""Writes fixtures.json: values that tests/agreement.rs must reproduce, computed by other people's implementations.

    python3 -m venv venv && venv/bin/pip install scipy==1.17.1 statsmodels==0.15.0 gbstats==0.8.0 numpy
    venv/bin/python experiments/tests/fixtures.py > experiments/tests/fixtures.json

scipy: distributions, KS, chi-square. statsmodels: multiple testing, a difference of proportions. gbstats (GrowthBook): the
sequential interval and p-value, the variance of a ratio. The e-process is a plain loop over scipy probabilities.
"""

import json
import math

import numpy as np
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import RatioStatistic, SampleMeanStatistic
from scipy import special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import test_proportions_2indep
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

rng = np.random.default_rng(20261125)


def special_functions():
    return {
        "ln_gamma": [[x, float(special.gammaln(x))] for x in (0.18, 0.5, 1.36, 3.0, 17.5, 1e3, 1e6)],
        "gamma_q": [[a, x, float(special.gammaincc(a, x))] for a in (0.5, 1.0, 4.5, 40.5) for x in (0.01, 0.7, 4.0, 39.0, 90.0)],
        "normal_upper": [[z, float(stats.norm.sf(z))] for z in (-6.0, -1.0, 0.0, 0.3, 1.96, 5.0, 9.0)],
        "normal_quantile": [[p, float(stats.norm.ppf(p))] for p in (1e-12, 1e-4, 0.025, 0.3, 0.5, 0.77, 0.999)],
        "chi2_upper": [[x, df, float(stats.chi2.sf(x, df))] for df in (1, 2, 9, 99) for x in (0.1, 3.84, 20.0, 120.0)],
        "chi2_limit": [[p, df, float(stats.chi2.isf(p, df))] for df in (1, 9, 99) for p in (0.5, 0.05, 1e-6)],
        "kolmogorov_upper": [[x, float(stats.kstwobign.sf(x))] for x in (0.3, 0.6, 0.95, 1.0, 1.36, 2.5)],
    }


def intervals():
    rows = []
    for alpha in (0.05, 0.01):
        for planned in (500.0, 5000.0):
            for n in (100, 2500, 40000):
                a = rng.normal(1.0, 2.0, n)
                b = rng.normal(1.05, 1.5, n + 37)
                stat_a = SampleMeanStatistic(n=len(a), sum=a.sum(), sum_squares=(a * a).sum())
                stat_b = SampleMeanStatistic(n=len(b), sum=b.sum(), sum_squares=(b * b).sum())
                config = SequentialConfig(difference_type="absolute", alpha=alpha, sequential_tuning_parameter=planned)
                test = SequentialTwoSidedTTest(stat_a, stat_b, config)
                low, high = test.confidence_interval
                rows.append({
                    "alpha": alpha, "planned": planned, "devices": [len(a), len(b)],
                    "means": [a.mean(), b.mean()], "variances": [a.var(ddof=1), b.var(ddof=1)],
                    "lower": low, "upper": high, "p": test.p_value, "se": math.sqrt(test.variance),
                })
    return rows


def ratios():
    n = 60
    busy = rng.integers(1, 90, n).astype(float)
    right = np.floor(busy * rng.uniform(0.5, 1.0, n))
    stat = RatioStatistic(
        n=n,
        m_statistic=SampleMeanStatistic(n=n, sum=right.sum(), sum_squares=(right * right).sum()),
        d_statistic=SampleMeanStatistic(n=n, sum=busy.sum(), sum_squares=(busy * busy).sum()),
        m_d_sum_of_products=(right * busy).sum(),
    )
    return {"y": right.tolist(), "n": busy.tolist(), "value": float(stat.mean), "variance": float(stat.variance)}


def means():
    a, b = rng.normal(3.0, 1.0, 40), rng.normal(3.5, 2.0, 55)
    compare = CompareMeans(DescrStatsW(b), DescrStatsW(a))
    ones = [31, 52, 400, 420]
    wald = test_proportions_2indep(ones[1], ones[3], ones[0], ones[2], method="wald")
    return {
        "a": a.tolist(), "b": b.tolist(), "se": float(compare.std_meandiff_separatevar),
        "proportions": ones, "difference": float(wald.diff), "wald_variance": float(wald.variance),
    }


def drift():
    a, b = rng.normal(0, 1, 300), rng.normal(0.2, 1.1, 220)
    ks = stats.ks_2samp(a, b, method="asymp")
    scaled = ks.statistic * math.sqrt(300 * 220 / 520)
    reference, live = [120, 80, 40, 10, 0], [90, 95, 50, 22, 0]
    table = np.array([reference[:4], live[:4]])
    chi = stats.chi2_contingency(table, correction=False)
    p, q = np.array(live[:4]) / 257, np.array(reference[:4]) / 250
    return {
        "a": a.tolist(), "b": b.tolist(), "ks": float(ks.statistic), "ks_p": float(stats.kstwobign.sf(scaled)),
        "reference": reference, "live": live, "chi2": float(chi.statistic), "chi2_p": float(chi.pvalue),
        "psi": float(np.sum((p - q) * np.log(p / q))),
        "psi_jeffreys": float(stats.entropy(p, q) + stats.entropy(q, p)),
    }


def fleet():
    p = np.concatenate([rng.uniform(0, 1, 60), rng.uniform(0, 0.004, 8)])
    by = {name: np.flatnonzero(multipletests(p, 0.05, method)[0]).tolist() for name, method in (("bh", "fdr_bh"), ("by", "fdr_by"))}
    return {"p": p.tolist(), **by}


def e_process():
    rows = []
    for sizes, rates in (((1, 1), (0.2, 0.5)), ((3, 1), (0.4, 0.1))):
        blocks, e = [], 1.0
        ones, counted = [0.0, 0.0], [0.0, 0.0]
        for _ in range(40):
            block = [rng.binomial(1, rates[side], sizes[side]).tolist() for side in (0, 1)]
            theta = [(ones[s] + 0.18) / (counted[s] + 0.36) for s in (0, 1)]
            common = (sizes[0] * theta[0] + sizes[1] * theta[1]) / sum(sizes)
            for side in (0, 1):
                for outcome in block[side]:
                    e *= stats.bernoulli.pmf(outcome, theta[side]) / stats.bernoulli.pmf(outcome, common)
                ones[side] += sum(block[side])
                counted[side] += sizes[side]
            blocks.append(block)
        rows.append({"sizes": sizes, "blocks": blocks, "e": float(e)})
    return rows


def srm():
    shares, counts = [0.5, 0.3, 0.2], [1040, 590, 370]
    marginal = stats.dirichlet_multinomial.logpmf(counts, [100 * s for s in shares], sum(counts))
    asked = stats.multinomial.logpmf(counts, sum(counts), shares)
    chi = stats.chisquare(counts, [s * sum(counts) for s in shares])
    return {"shares": shares, "counts": counts, "ln_factor": float(marginal - asked), "chi2_p": float(chi.pvalue)}


print(json.dumps({
    "special": special_functions(), "intervals": intervals(), "ratios": ratios(), "means": means(),
    "drift": drift(), "fleet": fleet(), "e_process": e_process(), "srm": srm(),
}, indent=1, default=float))
