"""Times and values of the disentanglement metrics on 10,000 codes of 10 dimensions with dSprites' factors.

    python benchmarks/metrics.py                  # about two minutes on two cores
    python benchmarks/metrics.py --dci-rows 10000 # DCI at the study's size: about ten minutes, most of them scikit-learn's

The codes are a random linear mix of the factors with noise, computed for the whole grid before the clock starts. The last
line is one JSON object.
"""

import argparse
import json
import os
import time

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier

from vae_zoo.metrics import (
    FactorSample,
    GridIndex,
    beta_vae_score,
    dci,
    explicitness,
    factor_vae_score,
    irs,
    mig,
    modularity,
    sample_factors,
    sap,
)

SIZES = (3, 6, 40, 32, 32)


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    return function(*args, **kwargs), time.perf_counter() - start


def main(dci_rows: int) -> None:
    grid, rng = GridIndex(SIZES), np.random.RandomState(0)
    factors = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
    table = (factors - factors.mean(0)) / factors.std(0) @ rng.standard_normal((5, 10)) / np.sqrt(5)
    table = (table + 0.1 * rng.standard_normal(table.shape)).astype(np.float32)
    train, test = sample_factors(SIZES, 10_000, rng), sample_factors(SIZES, 5_000, rng)
    codes, test_rows = table[grid.render(train)], (table[grid.render(test)], test)

    results = {
        "mig": timed(mig, codes, train),
        "sap": timed(sap, codes, train, test=test_rows),
        "modularity": timed(modularity, codes, train),
        "factor_vae": timed(factor_vae_score, table.__getitem__, grid),
        "beta_vae": timed(beta_vae_score, table.__getitem__, grid),
    }
    images = rng.randint(len(factors), size=50_000)  # as in evaluation.level=full
    encode, sample = table[images].__getitem__, FactorSample(factors[images])
    together = sum(seconds for _, seconds in results.values())
    results["factor_vae of a sample"] = timed(factor_vae_score, encode, sample)
    results["beta_vae of a sample"] = timed(beta_vae_score, encode, sample)
    results["irs"] = timed(irs, codes, train)
    results["explicitness"] = timed(explicitness, codes, train, test=test_rows)
    print(f"{'metric':<28}{'seconds':>9}{'value':>9}")
    for name, (value, seconds) in results.items():
        print(f"{name:<28}{seconds:9.2f}{value:9.4f}")
    print(f"{'the first five together':<28}{together:9.2f}   (at most 30)\n")

    rows = {
        "codes": codes[:dci_rows],
        "factors": train[:dci_rows],
        "test": tuple(array[: dci_rows // 2] for array in test_rows),
    }
    runs = {
        "gradient boosting, all cores": timed(dci, **rows),
        "gradient boosting, 1 thread": timed(dci, **rows, jobs=1),
        "scikit-learn's, 1 thread": timed(dci, **rows, estimator=GradientBoostingClassifier()),
        "random forest (opt-in)": timed(dci, **rows, estimator=RandomForestClassifier()),
        "extra trees (opt-in)": timed(dci, **rows, estimator=ExtraTreesClassifier()),
    }
    (ours, parallel), (alone, single), (reference, slow) = list(runs.values())[:3]
    assert ours == alone, "the number of threads must not change the result"
    print(f"{f'DCI, {dci_rows} rows':<36}{'seconds':>9}{'D':>8}{'C':>8}{'I':>8}   minus scikit-learn's")
    for name, (scores, seconds) in runs.items():
        difference = "".join(f"{scores[k] - reference[k]:+8.3f}" for k in scores)
        print(f"{name:<36}{seconds:9.2f}" + "".join(f"{v:8.3f}" for v in scores.values()) + f"   {difference}")
    print(f"{slow / single:.2f} times as fast as scikit-learn's; all cores {single / parallel:.2f} times as fast as one")
    print(f"load of the last minute: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores\n")

    seconds = {name: round(s, 3) for name, (_, s) in results.items()}
    dci_seconds = {name: round(s, 2) for name, (_, s) in runs.items()}
    summary = {"seconds": seconds, "together": round(together, 3), "dci_rows": dci_rows, "dci_seconds": dci_seconds}
    print(json.dumps(summary | {"dci_speedup": round(slow / single, 3), "dci_threads": round(single / parallel, 3)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dci-rows", type=int, default=2000, help="training rows for DCI (default 2000; the study: 10000)")
    main(parser.parse_args().dci_rows)
