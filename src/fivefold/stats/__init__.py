"""Intervals, paired tests, power, multiple comparisons and correction for judge error. Pure functions."""

from fivefold.stats.aggregate import correct_rate, measure_change, measure_mean, measure_rate, more_cases
from fivefold.stats.agreement import Agreement, agreement
from fivefold.stats.clustered import (
    cluster_bootstrap,
    clustered_mean,
    clustered_rate,
    clustered_se,
    design_effect,
    effective_n,
)
from fivefold.stats.curves import OperatingPoint, at_threshold, auroc, recall_at_fpr
from fivefold.stats.horizon import Horizon, time_horizon
from fivefold.stats.intervals import Interval, clopper_pearson, mean_interval, rate, wilson, zero_failure_upper
from fivefold.stats.items import Item, ItemAnalysis, complete_scores, item_analysis
from fivefold.stats.judge import Confusion, cohen_kappa, ppi_mean, rogan_gladen
from fivefold.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, holm
from fivefold.stats.paired import (
    Flips,
    McNemar,
    NonInferiority,
    flipped,
    mcnemar,
    non_inferior,
    paired_bootstrap,
    paired_difference,
    sign_flip_p,
    unpaired_difference,
)
from fivefold.stats.power import (
    advice,
    cases_to_clear,
    detectable_paired,
    n_for_paired,
    n_for_rate,
    n_for_zero_failures,
    power_paired,
    power_rate,
)
from fivefold.stats.reliability import Reliability, all_of_k, any_of_k, reliability
from fivefold.stats.sensitivity import Sensitivity, cochran_q, sensitivity
from fivefold.stats.sequential import Stop, anytime_rate, cluster_means, confidence_sequence, may_stop

__all__ = [
    "Agreement",
    "Confusion",
    "Flips",
    "Horizon",
    "Interval",
    "Item",
    "ItemAnalysis",
    "McNemar",
    "NonInferiority",
    "OperatingPoint",
    "Reliability",
    "Sensitivity",
    "Stop",
    "advice",
    "agreement",
    "all_of_k",
    "any_of_k",
    "anytime_rate",
    "at_threshold",
    "auroc",
    "benjamini_hochberg",
    "benjamini_yekutieli",
    "cases_to_clear",
    "clopper_pearson",
    "cluster_bootstrap",
    "cluster_means",
    "clustered_mean",
    "clustered_rate",
    "clustered_se",
    "cochran_q",
    "cohen_kappa",
    "complete_scores",
    "confidence_sequence",
    "correct_rate",
    "design_effect",
    "detectable_paired",
    "effective_n",
    "flipped",
    "holm",
    "item_analysis",
    "may_stop",
    "mcnemar",
    "mean_interval",
    "measure_change",
    "measure_mean",
    "measure_rate",
    "more_cases",
    "n_for_paired",
    "n_for_rate",
    "n_for_zero_failures",
    "non_inferior",
    "paired_bootstrap",
    "paired_difference",
    "power_paired",
    "power_rate",
    "ppi_mean",
    "rate",
    "recall_at_fpr",
    "reliability",
    "rogan_gladen",
    "sensitivity",
    "sign_flip_p",
    "time_horizon",
    "unpaired_difference",
    "wilson",
    "zero_failure_upper",
]
