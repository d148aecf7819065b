"""What a report says in words: methods, assumptions, limits, and where they were published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]

REFERENCES = {
    "cochran": "Cochran, W. G. (1977). Sampling Techniques, 3rd edition. Wiley.",
    "fay": "Fay, M. P. and Feuer, E. J. (1997). Confidence intervals for directly standardized rates: a method based "
    "on the gamma distribution. Statistics in Medicine 16, 791-801.",
    "joseph": "Joseph, L., Gyorkos, T. W. and Coupal, L. (1995). Bayesian estimation of disease prevalence and the "
    "parameters of diagnostic tests in the absence of a gold standard. American Journal of Epidemiology 141, 263-272.",
    "olofsson": "Olofsson, P. et al. (2014). Good practices for estimating area and assessing accuracy of land "
    "change. Remote Sensing of Environment 148, 42-57.",
    "discount": "Perez, G. et al. (2024). DISCount: counting in large image collections with detector-based "
    "importance sampling. AAAI 2024.",
    "ppi": "Angelopoulos, A. N., Duchi, J. C. and Zrnic, T. (2023). PPI++: efficient prediction-powered inference. "
    "arXiv:2311.01453.",
    "chapman": "Chapman, D. G. (1951). Some properties of the hypergeometric distribution with applications to "
    "zoological sample censuses. University of California Publications in Statistics 1, 131-160.",
    "sadinle": "Sadinle, M. (2009). Transformed logit confidence intervals for small populations in single "
    "capture-recapture estimation. Communications in Statistics 38, 1909-1924.",
}

_METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gamma": (
        "The total is the stratified estimator: in each stratum the mean number of sites in a reviewed tile, times the "
        "stratum's tiles. Its interval is the gamma interval of Fay and Feuer in a compound form: the variance is that "
        "of whole tiles drawn without replacement, since a tile may hold several sites, and the upper end is that of "
        "a sample with one more tile with sites at the largest weight. Strata that were reviewed whole are certain. In "
        "simulations on five real frames of brick kilns this interval held the truth at least 95.9 times in 100 with "
        "1,000 reviews or more, in every setting tried.",
        ("cochran", "fay"),
    ),
    "gamma-poisson": (
        "The total is the stratified estimator; its interval is Fay and Feuer's gamma interval with the variance of a "
        "compound Poisson count of tiles.",
        ("cochran", "fay"),
    ),
    "fay-feuer": (
        "The total is the stratified estimator; its interval is Fay and Feuer's gamma interval in the textbook form, "
        "which takes sites to fall singly and covers too little where they cluster.",
        ("cochran", "fay"),
    ),
    "wald": ("The total is the stratified estimator with a normal interval.", ("cochran",)),
    "difference": (
        "The total is the difference estimator: what the detector says of every tile, corrected by the mean error in "
        "the reviewed ones, stratum by stratum; its interval is normal.",
        ("cochran",),
    ),
    "discount": (
        "The total is DISCount's: tiles were drawn with replacement in proportion to the detector's count, and each "
        "reviewed count is weighted by the inverse of its chance; the interval is normal.",
        ("discount",),
    ),
    "ppi": ("The total is PPI++'s, with trust in the predictions tuned on the sample; normal interval.", ("ppi",)),
}

LIMITS = (
    "From space a free worker cannot be told from an enslaved one. These are counts of places of a kind that can be "
    "seen; they say nothing of any person, and nothing of any one place.",
    "Counted is what reviewers recognise on the imagery that was used. A site that neither detector nor reviewer can "
    "see, being too small, roofed, or not built yet on the day of the image, is in no figure.",
    "Intervals hold the doubt from reviewing a sample{reviewers}. They hold no doubt about the definition of a site, "
    "about the season of the imagery, or about ground outside the frame.",
    "Figures of two places can be compared only where both were counted with the same definition and design; bare "
    "detections of two places cannot be compared at all where the detector sees unevenly.",
)


def of_count(record: Record) -> tuple[list[str], list[str], list[str]]:
    """Methods, assumptions and references of a count."""
    total = record["total"]
    words, references = _METHODS.get(total["method"], (total.get("assumptions", total["method"]), ()))
    methods = [_sample(record), words]
    assumes = [
        "Tiles were drawn at random within strata, with the chances the sample was drawn with"
        if total["method"] not in ("discount", "ppi")
        else "Tiles were drawn as the method asks"
    ]
    refers = list(references)
    err = reviewers_err(record)
    if err == "votes":
        methods.append(
            "Reviewers may err: which tiles hold sites was drawn 200 times from what all votes say of tiles and "
            "reviewers together (a Bayesian Dawid-Skene model by Gibbs sampling), and the interval is the one of the "
            "mixture."
        )
        assumes.append("Reviewers err independently of each other, and alike in all strata")
        refers.append("joseph")
    elif err == "probability":
        methods.append(
            "Reviewers may err: which tiles hold sites was drawn 200 times with the probability that the reviews give "
            "each tile, a consensus of its reviewers, and the interval is the one of the mixture."
        )
        assumes.append("The probabilities are right: of tiles with 0.8, 8 in 10 hold sites")
    else:
        assumes.append("What reviewers found in a tile is what is there")
    if "recall" in record:
        methods.append(
            "Recall is the share of all sites that the detector found, precision the share of its detections that are "
            "sites; both are ratios of stratified totals with gamma intervals, so they hold for the whole frame and "
            "not for the sample alone."
        )
    return [part for part in methods if part], assumes, refers


def reviewers_err(record: Record) -> str | None:
    """What a count carries reviewers' errors through with: votes, probability, or None where it takes them at their
    word."""
    origin = record.get("provenance") or {}
    if "reviewers_err" in origin:
        return str(origin["reviewers_err"])
    # records of earlier versions do not say
    inputs = {one.get("role") for one in origin.get("inputs") or ()}
    return "votes" if "votes" in inputs or origin.get("votes_head") else None


def _sample(record: Record) -> str:
    sample = record.get("sample")
    if not sample:
        return ""
    strata = len(sample["strata"])
    seen = "1 stratum" if strata == 1 else f"{strata} strata"
    return (
        f"The ground was cut into {sample['tiles']:,} tiles in {seen}; people looked at "
        f"{sample['reviewed']:,} of them and counted the sites."
    )


def of_change(record: Record) -> tuple[list[str], list[str], list[str]]:
    """Of a change."""
    needed = record.get("absences_needed", 2)
    methods = [
        "Sites were matched across dates one to one and optimally, by distance or overlap. A site that was not "
        "detected is absent only where its place could be observed, without cloud or missing imagery; it is called "
        f"closed only after {needed} observable absences in a row, else it is not redetected, or unobservable.",
    ]
    if any("persisted" in row for row in record["changes"]):
        methods.append(
            "Counts of change are corrected for what the detector misses: persisted sites are those found at both "
            "dates, divided by both recalls; closed and opened ones are what remains of each date's corrected count. "
            "Intervals come from a parametric bootstrap in which sites are found and missed anew and recalls are drawn "
            "from their own intervals."
        )
    return methods, ["Misses at one date are independent of misses at another"], []


def of_accuracy(record: Record) -> tuple[list[str], list[str], list[str]]:
    """Of an error matrix."""
    method = (
        "Accuracies and areas are weighted by the area of each map class and have normal intervals (Olofsson et al. "
        "2014, equations 4 to 10)."
    )
    return [method], ["Sample units were drawn at random within map classes"], ["olofsson"]


def of_comparison(record: Record) -> tuple[list[str], list[str], list[str]]:
    """Of a comparison between groups."""
    method = (
        "Whether the detector is equally good everywhere was tested by shuffling the groups' names among the reviewed "
        "tiles of each stratum: p is how often chance alone makes groups as different. Where groups are strata their "
        "intervals are held against each other instead."
    )
    return [method], [], []


def of_registry(record: Record) -> tuple[list[str], list[str], list[str]]:
    """Of a match with an official register."""
    method = (
        "Detections and the register's entries were matched one to one. The total from the two lists is Chapman's, "
        "with Sadinle's interval. Unregistered says that no entry is near, not that a site is illegal."
    )
    assumed = ["The two lists are independent, hold no false entries, and every site is as easy to find as any other"]
    return [method], assumed, ["chapman", "sadinle"]


OF_KIND = {
    "count": of_count,
    "change": of_change,
    "accuracy": of_accuracy,
    "comparison": of_comparison,
    "registry": of_registry,
}


def limits(reviewers: bool) -> list[str]:
    """What the figures cannot tell."""
    more = " and from reviewers who err" if reviewers else ", not from reviewers who err"
    return [words.replace("{reviewers}", more) for words in LIMITS]
